"""Rows of a part -> what they are like, in sums that can be put together."""
