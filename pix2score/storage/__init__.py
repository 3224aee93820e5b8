"""Places, objects, Parquet and SQL: the only way to the user's storage."""
