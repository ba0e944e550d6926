"""`[table]`: how values become Parquet parts, and parts become a finished table."""
