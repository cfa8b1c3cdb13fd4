"""Pictures as a folder, tar shards and Parquet, and parts scored in this process, as an actor does."""

import asyncio
import io
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from service.config.settings import Settings
from service.runtime.loader import InferenceOptions
from service.runtime.session import open_session
from service.scoring.ray import output
from service.scoring.ray.options import ScoreRequest
from service.scoring.ray.plan import Plan, load_or_create_plan
from service.scoring.ray.store import OutputFolder
from service.scoring.ray.worker import PartScorer, ScoredPart, TaskFailure

Pictures = Mapping[str, bytes]


def as_folder(folder: Path, pictures: Pictures) -> str:
    for key, content in pictures.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder)


def as_tar(path: Path, pictures: Pictures, **more: bytes) -> str:
    """One shard; `more` are other members, such as labels of a WebDataset."""
    with tarfile.open(path, "w") as archive:
        for name, content in (*pictures.items(), *more.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def as_table(path: Path, pictures: Pictures, key: str = "key", image: str = "image", group: int = 7) -> str:
    table = pa.table({image: list(pictures.values()), key: list(pictures), "more": [1.0] * len(pictures)})
    pq.write_table(table, path, row_group_size=group)
    return str(path)


def scored(request: ScoreRequest, artefact: Path, **settings: Any) -> tuple[Plan, list[ScoredPart | TaskFailure]]:
    """Make the plan and score its missing parts in this process."""
    session, chosen = open_session(artefact), Settings(**settings)
    out = OutputFolder(request.out)
    plan = load_or_create_plan(request, out, session.manifest, chosen)
    there = {part.number for part in output.finished_parts(out, plan)}

    async def run() -> list[ScoredPart | TaskFailure]:
        scorer = PartScorer(plan, out.address, session, InferenceOptions.from_settings(chosen))
        await scorer.start()
        try:
            return [await scorer.score(part, last=True) for part in range(plan.parts) if part not in there]
        finally:
            await scorer.close()

    return plan, asyncio.run(run())


def rows(out: str | Path) -> dict[str, dict[str, Any]]:
    """Every row by its key, read by pyarrow alone."""
    found = pyarrow.dataset.dataset(str(out), format="parquet").to_table().to_pylist()
    by_key = {row["path"]: row for row in found}
    assert len(by_key) == len(found), "a picture has two rows in the results"
    return by_key


def said(text: str) -> str:
    """The output without colours and line breaks."""
    return " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).split())
