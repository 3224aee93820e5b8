"""Ray: sessions, sources, sinks, progress. All private parts of Ray that are touched stand in
``ray_patches``."""
