"""Ray: sessions, sources, sinks, progress. ``ray_patches`` alone touches its private parts."""
