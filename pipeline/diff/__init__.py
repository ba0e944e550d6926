"""Two finished tables -> how they differ, and whether one may replace the other."""
