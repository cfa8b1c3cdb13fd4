"""Sends reports to a FHIR server: one transaction, one answer, over HTTP."""

import asyncio
import logging
import re
import ssl
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import httpx
import orjson

from model.regular_file import check_regular_file
from service.config.lis import LisSettings
from service.lis.exchange.fhir.answers import document, fault_of, read_bounded
from service.lis.exchange.fhir.oauth import ClientCredentials, TokenSource
from service.lis.exchange.reloaded_tls import ReloadedTls
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

    def __init__(
        self,
        base_url: str,
        token: str | None,
        timeout_s: float,
        *,
        credentials: ClientCredentials | None = None,
        tls: ReloadedTls | None = None,
    ) -> None:
        """
        Args:
            token: a bearer token; None with `credentials`, which fetch one.
            tls: for the server and the token endpoint; None trusts the usual authorities.
        """
        _quiet_http_logs()
        url = httpx.URL(base_url)
        # Uncompressed: a few compressed bytes could exhaust the memory.
        headers = {"Content-Type": JSON, "Accept": JSON, "Accept-Encoding": "identity", "Prefer": "return=minimal"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        has_bearer = token is not None or credentials is not None
        basic = httpx.BasicAuth(url.username, url.password) if url.username and not has_bearer else None
        self._url = url.copy_with(username=None, password=None)
        self._timeout_s = timeout_s
        # One deadline for the whole delivery, below: httpx's time-out restarts with each piece of an answer.
        self._open = partial(httpx.AsyncClient, headers=headers, auth=basic, timeout=None)
        self._tls, self._context = tls, tls and tls.context()
        self._client = self._open(verify=self._context or True)
        self._tokens = TokenSource(credentials) if credentials else None

    async def deliver(self, message: str, control_id: str) -> str:
        """POST a transaction; returns the server's transaction-response.

        Raises:
            Rejected: the server has refused it.
            NoAnswer: the server may or may not have it.
        """
        await self._renew_tls()
        try:
            async with asyncio.timeout(self._timeout_s):
                status, reply = await self._answer(message.encode(), control_id)
        except (httpx.HTTPError, OSError) as error:  # httpx wraps no TLS alert that comes while it reads
            raise NoAnswer(f"no answer from the FHIR server: {fault_of(error)}") from error
        if status in (200, 201):
            return _receipt(reply, len(orjson.loads(message)["entry"]))
        reason = f"HTTP {status}"
        if 400 <= status < 500 and status not in RETRIED:
            issues = "; ".join(_issues(document(reply)))
            raise Rejected(f"{reason}: {issues}" if issues else reason, reply)
        raise NoAnswer(reason)

    async def _answer(self, content: bytes, control_id: str) -> tuple[int, str]:
        """Status and body of the answer. A token that the server refuses is renewed once.

        Raises:
            NoAnswer: it is compressed or too large, or there is no access token.
        """
        if self._tokens is None:
            return await self._posted(content, {"X-Request-Id": control_id})
        headers = {"X-Request-Id": control_id, "Authorization": f"Bearer {await self._tokens.token(self._client)}"}
        status, reply = await self._posted(content, headers)
        if status == httpx.codes.UNAUTHORIZED:
            self._tokens.forget()
            headers["Authorization"] = f"Bearer {await self._tokens.token(self._client)}"
            status, reply = await self._posted(content, headers)
        return status, reply

    async def _posted(self, content: bytes, headers: dict[str, str]) -> tuple[int, str]:
        limit_bytes = MAX_ANSWER_BYTES + 2 * len(content)
        async with self._client.stream("POST", self._url, content=content, headers=headers) as answer:
            return answer.status_code, await read_bounded(answer, limit_bytes, "the FHIR server")

    async def _renew_tls(self) -> None:
        """Close the connections, and open new ones by renewed files, if files were renewed."""
        context = self._tls and self._tls.context()
        if context is not self._context:
            old, self._client = self._client, self._open(verify=context or True)
            self._context = context
            await old.aclose()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def reloaded_client_tls(lis: LisSettings) -> ReloadedTls:
    """`client_tls` of the current files. Raises OSError."""
    files = lis.fhir_tls_ca, lis.fhir_tls_cert, lis.fhir_tls_key
    return ReloadedTls("fhir", files, partial(client_tls, lis))


def client_tls(lis: LisSettings) -> ssl.SSLContext | None:
    """TLS to the FHIR server with a private authority, a client certificate or both; None with neither.

    Raises:
        OSError: a file cannot be read, or is not valid PEM (`ssl.SSLError`).
    """
    if lis.fhir_tls_ca is None and lis.fhir_tls_cert is None:
        return None
    for path in (lis.fhir_tls_ca, lis.fhir_tls_cert, lis.fhir_tls_key):
        if path is not None:  # OpenSSL would block on a FIFO
            check_regular_file(path)
    if lis.fhir_tls_ca is None:
        context = httpx.create_ssl_context()
    else:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=lis.fhir_tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if lis.fhir_tls_cert:
        context.load_cert_chain(lis.fhir_tls_cert, lis.fhir_tls_key)
    return context


def _receipt(reply: str, sent: int) -> str:
    """The reply, if every entry was accepted.

    Raises:
        Rejected: an entry was refused.
        NoAnswer: no transaction-response, entries are missing in it, or a server error in an entry.
    """
    answer = document(reply)
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
