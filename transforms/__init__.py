"""What runs many times, on workers: read, preprocess, infer, write, commit."""
