"""Files to passages that fit a model."""
