"""The `[distil]` table of a training configuration: teachers and the weights of their losses."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from training.split_config import ConfigTable


class DistilConfig(ConfigTable):
    """Knowledge distillation from trained networks (arXiv 1503.02531; 2106.05237)."""

    teachers: tuple[Path, ...] = Field(
        (),
        description="run folders or artefacts (.onnx), relative to the working directory; their softened probabilities "
        "are averaged",
    )
    weight: float = Field(0.7, ge=0, le=1, description="weight of the distillation loss; the label loss has the rest")
    temperature: float = Field(2.0, gt=0, description="softmax temperature of teachers and student")
    features: float = Field(0.0, ge=0, description="weight of the embedding loss; 0: off")
    hints: float = Field(
        0.0,
        ge=0,
        description="weight of the loss of the feature maps at 1/8, 1/16 and 1/32 of the picture; needs run folders as "
        "teachers; 0: off",
    )

    @model_validator(mode="after")
    def _someone_teaches(self) -> Self:
        if (self.features or self.hints) and not self.teachers:
            raise ValueError("features and hints are losses against teachers; name them in distil.teachers")
        return self
