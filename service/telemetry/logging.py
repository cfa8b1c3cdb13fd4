"""What is logged, how, and what is not: the same for every process of the service. Knows loggers, and no messages."""

import json
import logging
from datetime import UTC, datetime

from service.config.settings import LogFormat
from service.telemetry.request_context import current_request


class JsonLines(logging.Formatter):
    """One JSON object a line: ts, level, logger, message; request_id, trace_id, span_id where a request is answered;
    what a message gives as `extra={"fields": …}`; exception."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        found = {
            "ts": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_ids = current_request.get()
        found |= request_ids.ids() if request_ids else {}
        found |= getattr(record, "fields", {})
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=False, default=str)


def configure(level: str, *, access_log: bool = False, form: LogFormat = "text") -> None:
    """Log from this level on, to stderr; of libraries, what says more than the service does itself."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if form == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonLines())
    # uvicorn's own lines say what `marrowlens serve` has said already.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    # A client's malformed form or picture is the client's news: it gets a problem, the log does not.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # A collector that is away is said once in a while by the exporter; each connection that fails is not.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logging.getLogger("service.requests").setLevel(logging.INFO if access_log else logging.CRITICAL)
