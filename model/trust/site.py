"""A laboratory's trust reference: the thresholds of one model, fitted to the laboratory's own labelled cells.

A file of its own, so that the model's files stay as they are. It replaces `trust` of the manifest, and every answer
names it.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from model.contract import ArtefactError, Manifest, first_fault
from model.fields import Sha256, Strict
from model.regular_file import read_regular_file
from model.trust.reference import TrustReference


class SiteTrustFile(Strict):
    """The content of the file."""

    schema_version: Literal[1] = 1
    model: str = Field(description="name of the model that the thresholds are of")
    version: str
    model_sha256: Sha256 = Field(description="of its ONNX file")
    pictures: tuple[Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")], ...] = Field(
        description="first 16 digits of the SHA-256 of the pictures that the thresholds were fitted to"
    )
    trust: TrustReference

    def content(self) -> bytes:
        """The bytes of the file."""
        return (self.model_dump_json(indent=1) + "\n").encode()


def read_site_trust(path: Path) -> tuple[SiteTrustFile, str]:
    """The content of the file, and its SHA-256.

    Raises:
        ArtefactError: the file is missing or damaged.
    """
    try:
        content = read_regular_file(path)
        return SiteTrustFile.model_validate_json(content), hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise ArtefactError(path, f"cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise ArtefactError(path, f"is not a laboratory's trust reference: {first_fault(error)}") from error


def with_site_trust(manifest: Manifest, path: Path) -> Manifest:
    """The manifest with the laboratory's trust reference, and the SHA-256 of its file.

    Raises:
        ArtefactError: the file is missing, damaged, or of another model.
    """
    found, digest = read_site_trust(path)
    if found.model_sha256 != manifest.sha256:
        raise ArtefactError(
            path,
            f"is of {found.model} {found.version}, sha256 {found.model_sha256[:12]}…, and the model is {manifest.name} "
            f"{manifest.version}, {manifest.sha256[:12]}…: make one for it with `marrowlens verify --write-trust`",
        )
    replaced = manifest.model_dump() | {
        "trust": found.trust.model_dump(),
        "site_trust_sha256": digest,
    }
    try:
        return Manifest.model_validate(replaced)
    except ValidationError as error:
        raise ArtefactError(path, f"does not fit {manifest.name} {manifest.version}: {first_fault(error)}") from error
