"""`forget`: a finished table -> a new one without the rows of some keys."""
