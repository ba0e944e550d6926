"""`publish`: a finished table -> a store, and the proof that it arrived."""
