"""Certify a table: compute some of its rows a second way and compare every value."""
