"""Typed, frozen configuration: defaults < YAML file < environment < command line."""
