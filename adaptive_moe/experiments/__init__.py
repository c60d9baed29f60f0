"""Measurements of the whole: the figures that the project promises, beside what others reach."""
