"""Judges what the base knows and decides who answers."""
