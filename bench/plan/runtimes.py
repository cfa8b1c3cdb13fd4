"""Engines timed without a server: requirements, and the module of bench/engines that runs each."""

import sys
from dataclasses import dataclass

from bench.plan.servers import OURS, SERVERS


@dataclass(frozen=True, slots=True)
class Engine:
    """One runtime. It uses the environment of the server `shares`, or the checkout's environment `borrows`."""

    name: str
    title: str
    module: str
    requirements: tuple[str, ...]
    versions: tuple[str, ...]
    shares: str | None = None
    borrows: str | None = None
    python: str = sys.executable


ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine(
            "onnxruntime",
            "bare onnxruntime session",
            "onnxruntime_engine",
            SERVERS[OURS].requirements,
            ("onnxruntime", "numpy"),
            shares=OURS,
        ),
        Engine(
            "openvino",
            "OpenVINO",
            "openvino_engine",
            ("openvino==2026.4.1", "pillow==13.0.0"),
            ("openvino", "numpy"),
        ),
        Engine(
            "pytorch",
            "PyTorch",
            "torch_engine",
            ("torch==2.14.1", "torchvision==0.29.1", "timm==1.0.31", "pydantic>=2.11", "pillow==13.0.0"),
            ("torch", "timm", "numpy"),
            borrows=".venv",  # what `make test` has made: torch is gigabytes
        ),
    )
}


def chosen(names: list[str]) -> list[Engine]:
    """The engines of these names.

    Raises:
        ValueError: there is no such engine.
    """
    unknown = set(names) - set(ENGINES)
    if unknown:
        raise ValueError(f"no such engine: {', '.join(sorted(unknown))}; there are {', '.join(ENGINES)}")
    return [ENGINES[name] for name in dict.fromkeys(names)]
