"""Log formats and levels, shared by all processes of the service."""

import json
import logging
from datetime import UTC, datetime

from service.config.settings import LogFormat
from service.telemetry.request_context import current_request


class JsonLines(logging.Formatter):
    """One JSON object a line: ts, level, logger, message, exception; request_id, trace_id and span_id during a request;
    worker, if there are several; and the members of `extra={"fields": …}`."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        found = {
            "ts": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._worker,
        }
        request_ids = current_request.get()
        found |= request_ids.ids() if request_ids else {}
        found |= getattr(record, "fields", {})
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=False, default=str)


def configure(
    level: str, *, access_log: bool = False, log_format: LogFormat = "text", worker: int | None = None
) -> None:
    """Log to stderr from this level on. Library loggers are limited to what the service does not log itself.

    Args:
        worker: index of this worker, for its lines; None: the process serves alone.
    """
    name = "" if worker is None else f"worker {worker} "
    logging.basicConfig(level=level.upper(), format=f"%(asctime)s %(levelname)s {name}%(name)s: %(message)s")
    if log_format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonLines(worker))
    # uvicorn's start-up lines repeat those of `marrowlens serve`.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    # Malformed forms and pictures are reported to the client as a problem, not logged.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # The exporter reports an unreachable collector now and then; urllib3 would log each connection.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logging.getLogger("service.requests").setLevel(logging.INFO if access_log else logging.CRITICAL)
