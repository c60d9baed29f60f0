"""Lets `python -m adaptive_moe` do what `adaptive-moe` does."""

from adaptive_moe.cli.main import run

run()
