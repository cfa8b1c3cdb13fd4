"""The route that a request for an unknown path was probably meant for.

Knows paths. Does not know what the routes do.
"""

from collections.abc import Iterable

from starlette.routing import BaseRoute, Match


def unknown_path(path: str, routes: Iterable[BaseRoute]) -> str:
    """What is wrong with a path that no route has, and which one has it but for slashes and capital letters."""
    plain = "/" + "/".join(filter(None, path.split("/")))
    known = list(routes)
    meant = next((each for each in (plain, plain.lower()) if each != path and _is_known(each, known)), None)
    if meant is None:
        return "there is no such path here; GET /docs shows those that there are"
    fault = "with a slash at its end" if path == f"{meant}/" else "written so"
    return f"there is no such path here {fault}; send it to {meant}"


def _is_known(path: str, routes: Iterable[BaseRoute]) -> bool:
    scope = {"type": "http", "path": path, "method": "GET", "headers": []}
    return any(route.matches(scope)[0] is not Match.NONE for route in routes)
