"""Turns low-confidence prompts into knowledge gaps that are declared on evidence only."""
