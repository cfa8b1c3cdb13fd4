"""What arranging a network for inference brings in onnxruntime: its graph as trained and as exported, side by side.

Knows how both graphs are made and what times them. Weights are drawn from a seed: speed does not depend on them.

    python -m bench.folding tiny tiny_deep van_b0:224 --keep folder
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from training.compare.speed import Timing, cpu_seconds, load_artefact, processor, time_side_by_side
from training.config import Config
from training.export.export import Servable, check, to_onnx, trace
from training.networks.build import build

CLASSES = 21
VARIANTS = "lite0_mlka tiny tiny_deep mlka_s van_b0"


def main(
    names: Annotated[list[str] | None, typer.Argument(metavar="VARIANT[:PIXELS]...", help=VARIANTS)] = None,
    keep: Annotated[Path, typer.Option(help="Folder for the graphs; those in it are not made again.")] = Path("graphs"),
    batch: Annotated[list[int] | None, typer.Option(min=1, help="May be repeated; default: 1 and 16.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 21,
) -> None:
    """Print the ratio of pictures per CPU second, folded to as trained, with quartiles; one thread."""
    keep.mkdir(parents=True, exist_ok=True)
    typer.echo(f"1 thread of {processor()}, {rounds} rounds; pictures a CPU second")
    for named in names or VARIANTS.split():
        variant, _, pixels = named.partition(":")
        plain, arranged = _graphs(variant, int(pixels or 128), keep)
        subjects = {"as trained": load_artefact(plain, 1), "folded": load_artefact(arranged, 1)}
        found = time_side_by_side(subjects, batch or (1, 16), rounds, round_s=0.3, clock=cpu_seconds)
        for before, after in zip(*found.values(), strict=True):
            typer.echo(_line(f"{variant} at {pixels or 128} px", before, after))


def _graphs(variant: str, size: int, folder: Path) -> tuple[Path, Path]:
    plain, arranged = (folder / f"{variant}-{size}-{kind}.onnx" for kind in ("plain", "folded"))
    if not (plain.exists() and arranged.exists()):
        servable = _servable(variant, size)
        plain.write_bytes(trace(servable, size).SerializeToString())
        arranged.write_bytes(to_onnx(servable, size).SerializeToString())
        check(arranged.read_bytes(), servable, size)
    return plain, arranged


def _servable(variant: str, size: int) -> Servable:
    config = Config.model_validate(
        {
            "name": variant,
            "version": "0.0.0",
            "model": {"variant": variant, "input_size": size},
            "data": {"sources": [{"name": "x", "folder": "x", "licence": "x", "attribution": "x"}]},
            "card": {"intended_use": "measuring", "licence": "x"},
        }
    )
    torch.manual_seed(0)
    net = build(config.model, CLASSES)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # none the identity, so that the check sees a wrong fold
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return Servable(net, config, 1.0).eval()


def _line(title: str, before: Timing, after: Timing) -> str:
    ratio = f"{after.ratio:.3f} ({after.ratio_low:.3f} to {after.ratio_high:.3f})"
    return f"{title}, batch {after.batch}: {before.pictures_per_s:.1f} → {after.pictures_per_s:.1f}, {ratio}"


if __name__ == "__main__":
    typer.run(main)
