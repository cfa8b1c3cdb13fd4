"""What a client may ask to see of each picture, as query parameters. An unknown parameter is refused, not ignored."""

from typing import Annotated

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict, FailFast, Field, field_validator

from service.api.responses import Wanted
from service.inference.heatmaps import MapFormat, MapKind


class ClassifyQuery(BaseModel):
    """The query of both classify routes."""

    model_config = ConfigDict(extra="forbid")

    maps: Annotated[list[MapKind], FailFast()] = Field(
        [MapKind.ATTENTION],
        description="Which maps to answer with, repeated or separated by commas. `none` asks for no map.",
        examples=[["attention", "evidence"]],
    )
    map_format: MapFormat = Field(
        MapFormat.GRID,
        description="`grid`: numbers. `png`: a grey picture of the grid. `overlay`: colours over the cell. "
        "Both pictures are PNG in base64.",
        examples=["overlay"],
    )
    top_k: int = Field(
        5,
        ge=1,
        le=1000,
        description="How many classes to list in `top`, and to draw evidence for; at most all.",
        examples=[3],
    )

    @field_validator("maps", mode="before")
    @classmethod
    def _split_at_commas(cls, values: list[str]) -> list[str]:
        return [part for value in values for part in str(value).split(",")]


async def wanted(query: Annotated[ClassifyQuery, Query()]) -> Wanted:
    """The query as the answers understand it."""
    return Wanted(maps=frozenset(query.maps), map_format=query.map_format, top_k=query.top_k)


WantedMaps = Annotated[Wanted, Depends(wanted)]
