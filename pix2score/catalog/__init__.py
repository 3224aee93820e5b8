"""The user's catalog: its columns, its rows by key, and the bytes they name. Never written."""
