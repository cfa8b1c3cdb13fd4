"""A session of onnxruntime with the options of the service."""

import os
from pathlib import Path

import onnxruntime


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU with the options of the service.

    Raises:
        ValueError: onnxruntime cannot run it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # errors
    # As in the service. Spinning threads of one model would slow down the next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        raise ValueError(f"{path}: onnxruntime cannot load it: {error}") from error
