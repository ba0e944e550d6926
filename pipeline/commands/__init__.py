"""The commands: of a config, of a table, of a root of tables."""
