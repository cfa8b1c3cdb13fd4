"""Pages of a list: the `Link` header (RFC 8288) has the address of the next page."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Request, Response
from starlette.datastructures import MutableHeaders

from service.api.state import AppStateDep


class Page(Protocol):
    """A page of a list."""

    @property
    def next(self) -> int | None:
        """The cursor of the next page; None on the last one."""


P = TypeVar("P", bound=Page)

_LINK = {"description": '`<address>; rel="next"` of the next page; absent on the last', "schema": {"type": "string"}}
#: The header in a route's description.
LINKED: dict[int | str, Any] = {200: {"headers": {"Link": _LINK}}}


class NextPage:
    """Links the answer to the next page of the same list.

    Args:
        path: of the list, as the client asked for it.
        query: the parameters of the request.
        headers: of the answer.
    """

    def __init__(self, path: str, query: Sequence[tuple[str, str]], headers: MutableHeaders) -> None:
        self._path, self._query, self._headers = path, query, headers

    def link(self, page: P, cursor: Literal["after", "before"]) -> P:
        """The page, with the `Link` header if there is a next one; `cursor` is the query parameter for `next`."""
        if page.next is not None:
            query = [(name, value) for name, value in self._query if name != cursor]
            self._headers["Link"] = f'<{self._path}?{urlencode([*query, (cursor, page.next)])}>; rel="next"'
        return page


async def _next_page(request: Request, response: Response, state: AppStateDep) -> NextPage:
    root = state.settings.root_path
    path = root + request.url.path.removeprefix(root)
    return NextPage(path, request.query_params.multi_items(), response.headers)


LinkedPage = Annotated[NextPage, Depends(_next_page)]
