"""The terminal program: the only place that prints."""
