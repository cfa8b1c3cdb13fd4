"""Training configuration of a micro network on drawn cells: 32 px, three classes, seconds on one core."""

DRAWN_CONFIG = """
name = "drawn"
version = "0.0.1"
seed = 3
[model]
variant = "micro"
input_size = 32
drop_path = 0.2
[data]
sources = [{name = "drawn", folder = "drawn", licence = "CC0", attribution = "drawn by training/drawn/painter.py"}]
[card]
intended_use = "tests"
licence = "CC0"
"""
