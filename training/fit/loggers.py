"""Loggers of a training: curves as CSV always; TensorBoard and MLflow by `[logging]` of the configuration."""

import os

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger

from model import atomic_file
from training.config import Config
from training.run import RunFolder


def make_loggers(config: Config, run: RunFolder) -> list[Logger]:
    """Lightning's loggers; a resumed run continues its TensorBoard and MLflow runs, and adds a version of the CSV.

    Raises:
        ValueError: a logger's package is not installed.
    """
    loggers: list[Logger] = [CSVLogger(run.folder, name="curves")]
    try:
        if config.logging.tensorboard:
            loggers.append(TensorBoardLogger(run.folder, name="tensorboard", version=""))
        if config.logging.mlflow:
            loggers.append(_mlflow(config, run))
    except ModuleNotFoundError as error:
        raise ValueError(
            f"[logging] needs {error.name or 'a package'}: pip install -e '.[loggers]' ({error})"
        ) from error
    for logger in loggers[1:]:
        logger.log_hyperparams(config.model_dump(mode="json", exclude={"classes", "data", "card", "logging"}))
    return loggers


def _mlflow(config: Config, run: RunFolder) -> MLFlowLogger:
    """The MLflow run, whose id is kept in the run folder.

    Raises:
        ValueError: MLflow refuses the tracking URI.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # mlflow 3 reports to its makers otherwise
    from mlflow.exceptions import MlflowException

    kept = run.folder / "mlflow_run_id.txt"
    try:
        logger = MLFlowLogger(
            experiment_name=config.logging.experiment or config.name,
            run_name=run.folder.resolve().name,
            tracking_uri=config.logging.mlflow,
            run_id=kept.read_text(encoding="utf-8") if kept.exists() else None,
        )
        if not kept.exists():
            atomic_file.write_text(kept, str(logger.run_id))
    except MlflowException as error:
        raise ValueError(f"logging.mlflow = {config.logging.mlflow!r}: {error.message}") from error
    return logger
