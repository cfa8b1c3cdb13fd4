"""Roles: what a person may do in the laboratory, by claims of the issuer or by a file.

Without either, roles follow from the scopes of the key or token.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from service.auth.api_keys import similar_names
from service.auth.identity import MAX_SUBJECT, Caller, Scope, checked_name
from service.config.auth import AuthSettings, Role, parse_role_claims
from service.config.file_watch import file_stamp
from service.config.secret_files import UnsafeFile, read_private_file

_MAX_BYTES = 8 * 1024 * 1024
#: Roles of a key or token with a scope, where neither claims nor a file give roles.
_ROLES_BY_SCOPE: Mapping[Scope, frozenset[Role]] = {
    "specimens": frozenset({"read", "review", "sign", "second-reader"}),
    "admin": frozenset({"operate"}),
}
_OF_ALL_ROLES: frozenset[Scope] = frozenset({"classify", "specimens"})
_OF_OPERATORS: frozenset[Scope] = frozenset({"admin", "metrics"})


class RolesFileError(Exception):
    """The file of roles cannot be used: gives the path, the entry and the reason."""


class _Person(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, AfterValidator(lambda name: checked_name(name, "the name"))]
    subject: str | None = Field(None, max_length=MAX_SUBJECT, description="`sub` of the issuer, required if given")
    roles: frozenset[Role]


class _RolesFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    person: tuple[_Person, ...] = ()


def read_roles(path: Path) -> Mapping[str, _Person]:
    """The people of a file by name.

    Raises:
        RolesFileError: unreadable, writable by others, an entry is invalid, or a name is listed twice.
    """
    try:
        found = _RolesFile.model_validate(tomllib.loads(read_private_file(path, _MAX_BYTES).decode()))
    except UnsafeFile as error:
        raise RolesFileError(str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RolesFileError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise RolesFileError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    names = [each.name for each in found.person]
    if len(set(names)) < len(names):
        raise RolesFileError(f"{path}: a name is listed twice; remove one entry")
    if clash := similar_names(names):
        raise RolesFileError(f"{path}: {clash}")
    return {each.name: each for each in found.person}


class RoleAssignment:
    """Gives callers their roles. The file is hot-reloaded; if the new one cannot be used, the current one stays."""

    def __init__(self, settings: AuthSettings, on_error: Callable[[RolesFileError], None]) -> None:
        """
        Raises:
            RolesFileError: the file cannot be used.
        """
        self._path, self._on_error = settings.roles_file, on_error
        self._has_claims = bool(settings.oidc_roles)
        self._stamp = None if self._path is None else file_stamp(self._path)
        self._people = None if self._path is None else read_roles(self._path)

    def assign(self, caller: Caller, acting: str | None = None) -> Caller:
        """The caller with its roles, and the scopes that they need.

        Args:
            acting: the person that a key acting for others names.
        """
        is_token = caller.identity.kind == "token"
        is_person = acting is not None or (caller.person and not caller.acts_for_others)
        if not is_person or (self._people is None and not (is_token and self._has_claims)):
            return replace(caller, roles=_roles_of(caller.scopes))
        roles = caller.roles | self._listed(acting or caller.name, caller.identity.subject)
        if roles:
            roles |= {"read"}
        return replace(caller, roles=roles, scopes=caller.scopes | _scopes_of(roles) if is_token else caller.scopes)

    def _listed(self, name: str, subject: str | None) -> frozenset[Role]:
        person = (self._people or {}).get(name)
        if person is None or person.subject not in (None, subject):
            return frozenset()
        return person.roles

    def refresh(self) -> None:
        """Read the file again if it has changed."""
        if self._path is None or (stamp := file_stamp(self._path)) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._people = read_roles(self._path)
        except RolesFileError as error:
            self._on_error(error)


def claimed_roles(settings: AuthSettings, claims: Mapping[str, Any]) -> frozenset[Role]:
    """The roles that the claims of a token give, by MARROWLENS_OIDC_ROLE_CLAIM and MARROWLENS_OIDC_ROLES."""
    found: Any = claims
    for part in settings.oidc_role_claim.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    values = found.split() if isinstance(found, str) else found if isinstance(found, list) else ()
    by_value = parse_role_claims(settings.oidc_roles)
    return frozenset(role for value in values if isinstance(value, str) for role in by_value.get(value, ()))


def _roles_of(scopes: frozenset[Scope]) -> frozenset[Role]:
    return frozenset(role for scope in scopes for role in _ROLES_BY_SCOPE.get(scope, ()))


def _scopes_of(roles: frozenset[Role]) -> frozenset[Scope]:
    if not roles:
        return frozenset()
    return _OF_ALL_ROLES | _OF_OPERATORS if "operate" in roles else _OF_ALL_ROLES
