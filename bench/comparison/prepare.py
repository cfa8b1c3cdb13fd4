"""Prepare a benchmark: pictures, both models, environments, and the bare session's answers."""

import datetime
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from bench.comparison.conduct import Bench, Progress, run_engine, task
from bench.comparison.measure import Pictures
from bench.peers.decoders import OURS as OUR_DECODER
from bench.peers.decoders import PILLOW
from bench.plan.cells import Ledger, Sitting
from bench.plan.plan import FEATHERWEIGHT, NETWORK, Plan, Setting
from bench.plan.runtimes import ENGINES, Engine
from bench.plan.servers import CEILING, OURS, SERVERS, Server
from bench.reporting.report import Header
from bench.setup import featherweight, machine, pictures
from bench.setup.environments import Environments, versions
from bench.setup.starting import Job
from model.contract import read_manifest


@dataclass(frozen=True, slots=True)
class Request:
    """Options of the command line."""

    plan: Plan
    cores: machine.Cores
    environments: Environments
    artefact: Path
    cells: Path | None  # a folder of real ones
    work: Path
    fresh: bool


def prepared(request: Request, progress: Progress) -> Bench:
    """A benchmark that is ready to run.

    Raises:
        CannotInstall: the environment of a server cannot be made.
        NoPictures: the folder holds too few.
        ArtefactError: the model has no readable manifest.
    """
    jpegs, files = _pictures(request)
    jobs = _jobs(request)
    setting = _setting(request, jpegs)
    folder = request.work / "runs" / setting.key
    if request.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "setting.json").write_text(setting.model_dump_json(indent=1) + "\n")
    pythons = _pythons(request, progress)
    size = read_manifest(request.artefact.with_suffix(".json")).preprocessing.input_size
    expected: dict[tuple[str, str], Pictures] = {}
    for (model, job), decoder in product(jobs.items(), (PILLOW, OUR_DECODER)):
        out = folder / f"expected-{model}-{decoder}.npz"
        if not out.exists():
            progress.step(f"what the bare session says of each picture, {model}")
            run_engine("expected", pythons[OURS], job, task(job, files, size, [1], 0.0), str(out.resolve()), decoder)
        expected[model, decoder] = _expected(out, jpegs)
    ledger = Ledger(folder / "cells.jsonl")
    ledger.add(Sitting(date=datetime.datetime.now(datetime.UTC).date(), load_average=os.getloadavg()[0]))
    return Bench(request.plan, ledger, jobs, expected, files, size, pythons, progress)


def header(bench: Bench) -> Header:
    """Text above the tables."""
    asked: Mapping[str, Server | Engine] = {**SERVERS, **ENGINES}
    measured = dict.fromkeys([c.server for c in bench.ledger.cells] + [t.engine for t in bench.ledger.timings])
    found = {
        name: versions(bench.pythons[name], asked[name].versions)
        for name in measured
        if name in asked and name in bench.pythons
    }
    sittings = bench.ledger.sittings
    rounds = 1 + max((cell.round for cell in bench.ledger.cells), default=0)
    setting = Setting.model_validate_json((bench.ledger.path.parent / "setting.json").read_text())
    busy = max(sitting.load_average for sitting in sittings)
    return Header(setting, rounds, found, bench.failures, max(sitting.date for sitting in sittings), busy)


def _pictures(request: Request) -> tuple[list[bytes], list[Path]]:
    """The JPEGs, in memory and as files for the engines."""
    jpegs = pictures.real(request.cells) if request.cells else pictures.drawn(request.work / "drawn")
    folder = request.work / "pictures" / pictures.sha256(jpegs)[:12]
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:03d}.jpg" for number in range(len(jpegs))]
    for path, jpeg in zip(files, jpegs, strict=True):
        path.write_bytes(jpeg)
    return jpegs, files


def _jobs(request: Request) -> dict[str, Job]:
    artefacts = {NETWORK: request.artefact}
    artefacts[FEATHERWEIGHT] = featherweight.write_artefact(request.work / "models", request.artefact)
    return {
        model: Job(path, request.cores, request.plan.deadline_s, request.work / "logs")
        for model, path in artefacts.items()
    }


def _setting(request: Request, jpegs: Sequence[bytes]) -> Setting:
    mean_kb = sum(map(len, jpegs)) / len(jpegs) / 1000
    return Setting(
        commit=machine.commit(),
        processor=machine.processor(),
        server_cores=request.cores.server,
        client_cores=request.cores.client,
        artefact_sha256=read_manifest(request.artefact.with_suffix(".json")).sha256,
        pictures=f"{len(jpegs)} {'real' if request.cells else 'drawn'} cells, {mean_kb:.0f} KB on average",
        pictures_sha256=pictures.sha256(jpegs),
        seconds=request.plan.seconds,
        deadline_s=request.plan.deadline_s,
        isolated=not request.environments.here,
    )


def _pythons(request: Request, progress: Progress) -> dict[str, Path]:
    """The Python of every server and engine. marrowlens' is always included, because the bare session runs in it."""
    servers = [*dict.fromkeys((OURS, *request.plan.servers))]
    found: dict[str, Path] = {}
    for server in (SERVERS[name] for name in servers):
        found[server.name] = _made(request, progress, server.name, server.requirements, server.python)
    found[CEILING.name] = Path(sys.executable)
    for engine in (ENGINES[name] for name in request.plan.engines):
        borrowed = machine.ROOT / engine.borrows / "bin/python" if engine.borrows else None
        if engine.shares:
            found[engine.name] = found[engine.shares]
        elif borrowed and borrowed.exists() and not request.environments.here:
            found[engine.name] = borrowed
        else:
            found[engine.name] = _made(request, progress, engine.name, engine.requirements, engine.python)
    return found


def _made(request: Request, progress: Progress, name: str, requirements: Sequence[str], python: str) -> Path:
    progress.step(f"the environment of {name}")
    return request.environments.python(name, requirements, python, progress.say)


def _expected(path: Path, jpegs: Sequence[bytes]) -> Pictures:
    with np.load(path) as held:
        probabilities = held["probabilities"].astype(np.float64)
        attention = held["attention"].astype(np.float64) if "attention" in held else np.empty((len(jpegs), 0))
    return Pictures(jpegs, probabilities, attention)
