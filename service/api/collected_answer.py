"""An answer in one piece that was collected in leased memory, which is given back once the client has taken it.

Knows how such an answer is sent: in pieces, so that what waits to be read is the lease's and not the connection's. Does
not know what it says.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.uploads.transfer_pace import Pace, Patience

_PIECE_BYTES = 64 * 1024


class CollectedAnswer(Response):
    """Chunks that are one body. `held` is closed when it was sent, or will not be."""

    def __init__(
        self,
        chunks: Sequence[bytes | memoryview],
        held: ExitStack,
        *,
        media_type: str,
        patience: Patience,
        headers: dict[str, str],
    ) -> None:
        self._chunks, self._held, self._patience = chunks, held, patience
        length = {"Content-Length": str(sum(map(len, chunks)))}
        super().__init__(None, media_type=media_type, headers=headers | length)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (signature is ASGI's)
        """Send it.

        Raises:
            ClientGone: the client does not read it.
        """
        with self._held:
            pace = Pace(self._patience)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for piece in _pieces(self._chunks):
                await pace.send(send, piece)
            await send({"type": "http.response.body", "body": b""})


def _pieces(chunks: Sequence[bytes | memoryview]) -> Iterator[bytes]:
    gathered = bytearray()
    for chunk in chunks:
        for at in range(0, len(chunk), _PIECE_BYTES):
            gathered += chunk[at : at + _PIECE_BYTES]
            if len(gathered) >= _PIECE_BYTES:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)
