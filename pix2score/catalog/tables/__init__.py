"""Tables with a log as catalogs: which files are one version of them, by their own libraries."""
