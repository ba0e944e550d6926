"""`featuretap init`: look at data and a model, and write a config that runs."""
