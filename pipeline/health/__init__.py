"""Vectors -> numbers that say whether they are fit for use; numpy alone."""
