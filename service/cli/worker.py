"""The process of one worker, started by `service.server.workers.supervisor` and not by people.

Arguments: the descriptors of the listening socket and of the supervisor's channel. Standard input: the assignment.
"""

import pickle
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

from service.cli.fast_import import fast_import
from service.cli.output import OnError, open_model
from service.exit_status import CANNOT_RUN
from service.runtime.artifact import bundled_artefact
from service.server.workers.assignment import Assignment
from service.telemetry import logging as logs

if TYPE_CHECKING:
    from service.runtime.session import OnnxSession


def main(listener: socket.socket, channel: socket.socket, assignment: Assignment) -> None:
    """Serve until a signal, or until the supervisor has ended."""
    with fast_import():
        from service.cli import serving
        from service.server.workers.link import SupervisorLink
        from service.telemetry.metric_registry import share_metrics

    settings, worker, access_log = assignment.settings, assignment.worker, assignment.access_log
    logs.configure(settings.log_level, access_log=access_log, log_format=settings.log_format, worker=worker.index)
    share_metrics(worker)
    link = SupervisorLink(channel)

    def on_error(message: str) -> NoReturn:
        link.failed(message)
        raise SystemExit(CANNOT_RUN)

    session = _open_served(assignment, on_error)
    with worker.alone():  # one creates a database that is missing; SQLite fails if two do at once
        application = serving.build_application(settings, session, on_error, worker)
    lines = serving.start_lines(settings, session, listener, application)
    del session  # frees its memory when a reload replaces the model
    server = serving.build_server(application, settings, access_log, lambda: link.started(list(lines)), on_error, link)
    server.run(sockets=[listener])
    serving.end_process(server)


def _open_served(assignment: Assignment, on_error: OnError) -> "OnnxSession":
    """The session of the model that the other workers serve."""
    settings, served = assignment.settings, assignment.served
    configured = settings.artefact or bundled_artefact()
    session = open_model(settings, on_error, configured if served.name is None else configured.parent / served.name)
    if served.digest not in (None, session.manifest.digest):
        on_error(
            f"{served.name or configured.name} has changed since the other workers loaded it; send SIGHUP to the "
            "service to load it in all workers, or put the files back"
        )
    return session


if __name__ == "__main__":
    listener, channel = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    main(listener, channel, pickle.load(sys.stdin.buffer))
