"""From a command line to an exit code: flags and TOML in, one JSON summary line out."""
