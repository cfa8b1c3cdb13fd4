"""The shortest configuration of a training run."""

MINIMAL = """
name = "small"
version = "0.0.1"

[[data.sources]]
name = "drawn"
folder = "drawn"
licence = "CC0"
attribution = "drawn"

[card]
intended_use = "tests"
licence = "CC0"
"""
