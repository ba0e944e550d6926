"""A table's statistics -> one HTML page that shows how good the table is."""
