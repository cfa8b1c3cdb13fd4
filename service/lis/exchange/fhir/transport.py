"""Sends reports to a FHIR server: one transaction, one answer, over HTTP."""

import asyncio
import logging
import re
from collections.abc import Iterator
from typing import Any, Final

import httpx
import orjson

from service.lis.exchange.transport import NoAnswer, Rejected

JSON: Final = "application/fhir+json"
#: Client errors that are retried: they concern authentication, load or time, not the message. 409 is a conflict with
#: another writer, after which a conditional create or update is repeated.
RETRIED: Final = frozenset({401, 407, 408, 409, 421, 423, 425, 429})
#: Maximum size of an answer, beyond twice the request: a server may return the stored resources.
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
#: Codes and paths of an OperationOutcome that are logged. Its texts can quote the patient.
_WORD: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,200}")


class FhirTransport:
    """A `Transport` to a FHIR server. A user and password in the URL are sent by basic authentication."""

    def __init__(self, base_url: str, token: str | None, timeout_s: float) -> None:
        _quiet_http_logs()
        url = httpx.URL(base_url)
        # Uncompressed: a few compressed bytes could exhaust the memory.
        headers = {"Content-Type": JSON, "Accept": JSON, "Accept-Encoding": "identity", "Prefer": "return=minimal"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        basic = httpx.BasicAuth(url.username, url.password) if url.username and token is None else None
        self._url = url.copy_with(username=None, password=None)
        self._timeout_s = timeout_s
        # One deadline for the whole delivery, below: httpx's time-out restarts with each piece of an answer.
        self._client = httpx.AsyncClient(headers=headers, auth=basic, timeout=None)

    async def deliver(self, message: str, control_id: str) -> str:
        """POST a transaction; returns the server's transaction-response.

        Raises:
            Rejected: the server has refused it.
            NoAnswer: the server may or may not have it.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                status, reply = await self._answer(message.encode(), control_id)
        except (httpx.HTTPError, TimeoutError) as error:
            raise NoAnswer(f"no answer from the FHIR server: {type(error).__name__}") from error
        if status in (200, 201):
            return _receipt(reply, len(orjson.loads(message)["entry"]))
        reason = f"HTTP {status}"
        if 400 <= status < 500 and status not in RETRIED:
            issues = "; ".join(_issues(_document(reply)))
            raise Rejected(f"{reason}: {issues}" if issues else reason, reply)
        raise NoAnswer(reason)

    async def _answer(self, content: bytes, control_id: str) -> tuple[int, str]:
        """Status and body of the answer.

        Raises:
            NoAnswer: it is compressed or too large.
        """
        limit_bytes, found = MAX_ANSWER_BYTES + 2 * len(content), bytearray()
        headers = {"X-Request-Id": control_id}
        async with self._client.stream("POST", self._url, content=content, headers=headers) as answer:
            if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise NoAnswer("the FHIR server sent a compressed answer despite Accept-Encoding: identity")
            async for piece in answer.aiter_raw():
                found += piece
                if len(found) > limit_bytes:
                    raise NoAnswer(f"the FHIR server's answer is larger than {limit_bytes} bytes")
        return answer.status_code, found.decode("utf-8", "replace")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _receipt(reply: str, sent: int) -> str:
    """The reply, if every entry was accepted.

    Raises:
        Rejected: an entry was refused.
        NoAnswer: no transaction-response, entries are missing in it, or a server error in an entry.
    """
    answer = _document(reply)
    if answer.get("resourceType") != "Bundle" or answer.get("type") != "transaction-response":
        raise NoAnswer("the answer is not a transaction-response; check MARROWLENS_LIS_FHIR_URL")
    responses = [entry.get("response") or {} for entry in answer.get("entry", [])]
    refused = [response for response in responses if not _status(response).startswith("2")]
    if refused:
        status, issues = _status(refused[0]), "; ".join(_issues(refused[0].get("outcome") or {}))
        reason = f"an entry has the status {status}{f': {issues}' if issues else ''}"
        if status.startswith("4") and int(status) not in RETRIED:
            raise Rejected(reason, reply)
        raise NoAnswer(reason)
    if len(responses) != sent:
        raise NoAnswer(f"the answer has {len(responses)} of {sent} entries")
    return reply


def _document(reply: str) -> dict[str, Any]:
    try:
        found = orjson.loads(reply)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _status(response: dict[str, Any]) -> str:
    """Three digits of `201 Created`, or `none`."""
    found = re.match(r"[0-9]{3}\b", str(response.get("status", "")))
    return found[0] if found else "none"


def _issues(outcome: dict[str, Any]) -> Iterator[str]:
    """Codes and paths of an OperationOutcome, without its texts, which can quote the patient."""
    for issue in outcome.get("issue", []):
        code = str(issue.get("code", ""))
        where = [str(path) for path in issue.get("expression") or issue.get("location") or []]
        words = [word for word in (code, *where[:1]) if _WORD.fullmatch(word)]
        if words:
            yield " at ".join(words)


def _quiet_http_logs() -> None:
    """Raise the log level: httpx logs URLs and httpcore headers, which can hold keys and ids."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
