"""Catalogs that are text: CSV and JSON lines, each converted to a Parquet file where it is read."""
