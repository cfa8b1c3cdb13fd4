"""onnxruntime sends no telemetry and stores no identifier of this machine."""

import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT


@pytest.mark.parametrize("module", ["service.runtime.session", "service.cli.serving", "training.cli"])
def test_onnxruntime_starts_without_its_telemetry(module: str, tmp_path: Path) -> None:
    program = (
        f"import {module}, os, sys; assert 'onnxruntime' in sys.modules; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "none"), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    checkout = ROOT
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=checkout)
    assert (ended.returncode, ended.stdout.split()) == (0, ["1"]), ended.stderr
    assert "telemetry" not in ended.stdout + ended.stderr
    assert not (tmp_path / ".ses").exists()
