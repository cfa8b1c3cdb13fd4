"""The shortest configurations of a training run: as a file, and of a micro network as an object."""

from training.config import Config

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

MICRO = Config.model_validate(
    {
        "name": "gate",
        "version": "0.0.1",
        "model": {"variant": "micro", "input_size": 64},
        "data": {"sources": [{"name": "drawn", "folder": "x", "licence": "CC0", "attribution": "drawn"}]},
        "card": {"intended_use": "tests", "licence": "CC0"},
    }
)
