"""What is logged, how, and what is not: the same for every process of the service. Knows loggers, and no messages."""

import logging


def configure(level: str, *, access_log: bool = False) -> None:
    """Log from this level on, to stderr; of libraries, what says more than the service does itself."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # uvicorn's own lines say what `marrowlens serve` has said already.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    # A client's malformed form or picture is the client's news: it gets a problem, the log does not.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("service.requests").setLevel(logging.INFO if access_log else logging.CRITICAL)
