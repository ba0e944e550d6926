"""`source.preprocess`: what turns features that were read into inputs of the model."""
