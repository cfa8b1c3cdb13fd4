"""What a training run is told of its network: which, fed with what, begun from where, and what is changed about it.

Knows keys and their ranges. Knows no torch; whether the numbers fit together is found when the network is built.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from model.contract import SIZE_MULTIPLE
from training.data_config import Strict

Scale = Literal["3-5-1", "5-7-1", "7-9-1"]
Stem = Literal["mcnn", "overlap"]
ChannelAttention = Literal["none", "se", "eca", "epsa", "cbam", "gc", "fca"]
#: One number a stage; none: the variant's.
Stages = tuple[Annotated[int, Field(ge=1)], ...]
STAGES = 4


class ModelConfig(Strict):
    """The network and what it is fed.

    `stem` to `embed_dims` change one thing each about the named variant, for an ablation; unset, the variant's own.
    """

    variant: str = Field("tiny", description="name of the network; an unknown one is answered with the nearest")
    stem: Stem | None = Field(None, description="mcnn: parallel 3x3, 5x5, 7x7; overlap: VAN's 7x7 of stride 4")
    fusion: bool | None = Field(None, description="multi-scale cross attention; false: the head reads the last stage")
    scales: tuple[tuple[Scale, ...], ...] = Field(
        (), description="kernels of the gate by stage: several, MLKA, an equal share of channels each; one, LKA"
    )
    channel_attention: ChannelAttention = Field("none", description="in every block, on what its ConvFFN adds")
    depths: Stages = Field((), description="blocks by stage")
    mlp_ratios: Stages = Field((), description="width of the ConvFFN by stage, in widths of the stage")
    embed_dims: Stages = Field((), description="widths by stage; multiples of 48 where MLKA shall be fast")
    input_size: int = Field(
        96,
        ge=SIZE_MULTIPLE,
        le=1024,
        multiple_of=SIZE_MULTIPLE,
        description="side of the square that it is fed, in pixels",
    )
    drop_path: float = Field(0.1, ge=0, lt=1, description="rate of stochastic depth at the last block")
    init: str = Field("", description="weights to begin with: imagenet, a run folder, .safetensors, .onnx, .pth")
    mean: tuple[float, float, float] = Field(
        (0.485, 0.456, 0.406), description="taken from each channel of a pixel in 0..1; as the weights of init want it"
    )
    std: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="that it is divided by then")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        for key in ("scales", "depths", "mlp_ratios", "embed_dims"):
            given = len(getattr(self, key))
            if given not in (0, STAGES):
                raise ValueError(f"{key} has {given} entries; the network has {STAGES} stages")
        for stage, scales in enumerate(self.scales, start=1):
            if not scales or len(set(scales)) < len(scales):
                raise ValueError(f"scales of stage {stage} must name one kernel or several different ones")
        return self
