"""Authentication by API key or token, the caller's roles and rate limit, and revocation."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from service.auth.api_keys import KEY_PREFIX, KeyRing, KeysFileError, caller_of
from service.auth.identity import Caller, Scope
from service.auth.rate_limit import limiter_of
from service.auth.roles import RoleAssignment, RolesFileError
from service.concurrency.thread_pools import FILES
from service.concurrency.worker import Worker
from service.config.auth import AuthSettings, Role
from service.errors import Forbidden, RateLimited, RoleMissing, ServiceError, Unauthorised
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:  # loaded where an issuer is configured: cryptography takes 15 MB
    from service.auth.oidc import TokenVerifier

log = logging.getLogger(__name__)


class Authenticator:
    """Authenticates callers by API key or token, and checks their scopes and rate limits."""

    def __init__(self, settings: AuthSettings, metrics: Metrics, worker: Worker | None = None) -> None:
        """
        Args:
            worker: the process among several, which share the rate limits; None: the only one.

        Raises:
            KeysFileError, RolesFileError: the file of keys or of roles cannot be used.
        """
        self._settings, self._metrics = settings, metrics
        self._rate_limiter = limiter_of(worker)
        self.keys = None if settings.keys_file is None else KeyRing(settings.keys_file, _log_kept_keys)
        self.roles = RoleAssignment(settings, _log_kept_roles)
        self.tokens = _token_verifier(settings)
        if self.keys is not None:
            metrics.keys(len(self.keys.entries), valid=True)

    async def authenticate(self, authorization: Sequence[str]) -> Caller:
        """The caller of a request, from its `Authorization` headers.

        Raises:
            Unauthorised: no credentials, or invalid ones.
            IssuerUnavailable: a token cannot be verified now.
        """
        if len(authorization) > 1:
            raise Unauthorised("Several Authorization headers; send one", invalid_token=True)
        scheme, _, credentials = "".join(authorization).partition(" ")
        credentials = credentials.strip()
        if scheme.lower() != "bearer" or not credentials:
            raise Unauthorised('No credentials; send "Authorization: Bearer" followed by an API key or a token')
        if credentials.startswith(KEY_PREFIX):
            return self.key_holder(credentials)
        if self.tokens is None:
            raise Unauthorised(
                f"Not an API key, and tokens are not accepted here; send a key ({KEY_PREFIX}…)", invalid_token=True
            )
        return await self.tokens.verify(credentials)

    def key_holder(self, key: str) -> Caller:
        """The caller that a key authenticates.

        Raises:
            Unauthorised: unknown, expired or revoked.
        """
        entry = None if self.keys is None else self.keys.find(key)
        if entry is None:
            raise Unauthorised("Unknown, expired or revoked API key", invalid_token=True)
        return caller_of(entry, self._settings.rate_per_s, self._settings.rate_burst)

    def renewed(self, caller: Caller) -> Caller | None:
        """A caller that authenticated earlier, with the current rights of its key; None if the key is gone."""
        if caller.identity.kind not in ("key", "named"):
            return caller
        entry = None if self.keys is None else self.keys.entry(caller.identity)
        if entry is None or entry.expired(datetime.now(UTC)):
            return None
        holder = caller_of(entry, self._settings.rate_per_s, self._settings.rate_burst)
        return named(holder, caller.name) if caller.identity.kind == "named" else holder

    def authorize(
        self, caller: Caller, scopes: frozenset[Scope], role: Role | None = None, *, by_session: bool = False
    ) -> None:
        """Count the request and check that the caller has one of the scopes, and the role.

        Args:
            by_session: a person signed in by browser, who is told about roles and not about scopes.

        Raises:
            RateLimited: too many requests.
            Forbidden: none of the scopes.
            RoleMissing: not the role.
        """
        if wait_s := self._rate_limiter.take(caller.identity.account, caller.rate_per_s, caller.burst):
            raise RateLimited(wait_s)
        has_scope = bool(scopes & caller.scopes)
        if role is not None and role not in caller.roles and (has_scope or by_session):
            raise RoleMissing(role)
        if not has_scope:
            raise Forbidden(f"Missing scope; required: {' or '.join(sorted(scopes))}", scopes=tuple(sorted(scopes)))

    def revoked(self, caller: Caller, scopes: frozenset[Scope]) -> ServiceError | None:
        """Why an authorized caller has lost access since; None while it has access."""
        if caller.ends_at_s is not None and time.time() >= caller.ends_at_s:
            return Unauthorised("The API key or token expired during the request", invalid_token=True)
        if caller.identity.kind not in ("key", "named") or self.keys is None:
            return None
        entry = self.keys.entry(caller.identity)
        if entry is None:
            return Unauthorised("The API key was revoked during the request", invalid_token=True)
        if not scopes & entry.scopes:
            return Forbidden("The API key lost its scope during the request", scopes=tuple(sorted(scopes)))
        return None

    @property
    def reads_files(self) -> bool:
        """Whether there is a file of keys or of roles to reload."""
        return self._settings.keys_file is not None or self._settings.roles_file is not None

    async def refresh(self) -> None:
        """Read the files of keys and roles again if they have changed, in a thread: the disk may block."""
        await FILES.run(self.roles.refresh)
        if self.keys is not None:
            await FILES.run(self.keys.refresh)
            self._metrics.keys(len(self.keys.entries), valid=self.keys.valid)


def named(holder: Caller, name: str) -> Caller:
    """The person that the holder of a key names, without the right to name others."""
    identity = holder.identity.model_copy(update={"kind": "named"})
    return replace(holder, name=name, identity=identity, person=True, acts_for_others=False)


def _log_kept_roles(error: RolesFileError) -> None:
    log.error("File of roles rejected, keeping the current roles: %s", error)


def _log_kept_keys(error: KeysFileError) -> None:
    log.error("File of API keys rejected, keeping the current keys: %s", error)


def _token_verifier(settings: AuthSettings) -> "TokenVerifier | None":
    if settings.oidc_issuer is None:
        return None
    from service.auth.oidc import IssuerKeys, TokenVerifier

    return TokenVerifier(settings, IssuerKeys(settings))
