"""`[errors]`: what becomes of rows that cannot be read, computed or stored."""
