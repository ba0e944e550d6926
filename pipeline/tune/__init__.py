"""Measure what each stage of a run can do on this machine, and say what bounds it."""
