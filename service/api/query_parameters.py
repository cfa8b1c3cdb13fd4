"""Checks of query parameters that FastAPI does not make: unknown names, and single values that are given twice."""

from difflib import get_close_matches
from typing import get_args, get_origin

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel


async def check_query(request: Request) -> None:
    """Refuse query parameters that the route does not have, and single values that are given several times: a misspelt
    filter would list everything, and of two values one would be ignored.

    Raises:
        RequestValidationError: names the nearest parameter of the route, or how often the parameter is given.
    """
    if not request.scope["query_string"]:
        return
    known = _query_parameters(request.scope["route"].dependant)
    for name in request.query_params:
        times = len(request.query_params.getlist(name))
        if name not in known:
            nearest = get_close_matches(name, sorted(known), 1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(sorted(known)) or 'none'}"
            raise RequestValidationError([{"loc": ("query", name), "type": "unknown", "msg": f"unknown; {hint}"}])
        if times > 1 and not known[name]:
            said = f"given {times} times; only one value is possible"
            raise RequestValidationError([{"loc": ("query", name), "type": "repeated", "msg": said}])


KnownQuery = Depends(check_query)


def _query_parameters(dependant: Dependant) -> dict[str, bool]:
    """Name of a query parameter → whether it is a list."""
    found: dict[str, bool] = {}
    for each in dependant.query_params:
        annotation = each.field_info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            fields = annotation.model_fields.items()
            found |= {field.alias or name: _is_list(field.annotation) for name, field in fields}
        else:
            found[each.alias] = _is_list(annotation)
    for dependency in dependant.dependencies:
        found |= _query_parameters(dependency)
    return found


def _is_list(annotation: object) -> bool:
    return get_origin(annotation) is list or any(map(_is_list, get_args(annotation)))
