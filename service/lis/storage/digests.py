"""Digests of stored data, which the audit trail records in place of the data.

Most are HMAC-SHA256 under the specimen's own key, so that names cannot be tried against the trail without the database.
An erasure deletes the key.
"""

import hmac
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from service.lis.storage.tables import CellRow, MessageRow, SpecimenRow

#: What the digest of a specimen covers: everything that clients can see. A later column needs a key of its own in the
#: trail's details, or the digests of earlier rows would differ.
_SPECIMEN = (
    "id",
    "number",
    "key",
    "state",
    "revision",
    "patient",
    "order",
    "collected_at",
    "target_cells",
    "megakaryocytes",
    "counted_by",
    "cells",
    "reports",
    "correction",
    "opened_at",
)
#: What the digest of findings covers: columns of later versions, in a digest of their own.
_FINDINGS = ("revision", "megakaryocyte_assessment", "cellularity", "assessed_by", "comment")
#: What the digest of cells covers: the picture, and all that the model said about it.
_CELL = (
    "place",
    "key",
    "sha256",
    "model",
    "suggested",
    "probability",
    "top",
    "manifest",
    "decision",
    "reasons",
    "prediction_set",
    "added_at",
)
_OUTCOME = ("control_id", "state", "reason", "reply")


def digest(document: str) -> str:
    """SHA-256 of a report or message, as recorded in the trail."""
    return sha256(document.encode()).hexdigest()


def specimen_digest(specimen: SpecimenRow) -> str:
    """Digest of a specimen's data: patient, order, numbers, collection time, state, counts."""
    return _keyed(specimen.digest_key, _columns(specimen, _SPECIMEN))


def findings_digest(specimen: SpecimenRow) -> str | None:
    """Digest of what a reader has written: assessments and the draft of the comment; None if nothing is."""
    columns = _columns(specimen, _FINDINGS)
    return None if columns[1:] == [None] * len(columns[1:]) else _keyed(specimen.digest_key, columns)


def cells_digest(specimen: SpecimenRow, cells: Iterable[CellRow]) -> str:
    """Digest of cells in the order of their places, as the model suggested them."""
    return _keyed(specimen.digest_key, [_columns(cell, _CELL) for cell in cells])


def outcome_digest(specimen: SpecimenRow, message: MessageRow) -> str:
    """Digest of a settled message: its state, the reason, and the receiver's reply."""
    return _keyed(specimen.digest_key, _columns(message, _OUTCOME))


def digest_of_value(key: str | None, specimen_id: str | None, revision: int, field: str, value: Any) -> str:
    """Digest of a value that a change replaced.

    Specimen, revision and field are included, so equal values in two rows have different digests.
    """
    return _keyed(key, [specimen_id, revision, field, value])


def _keyed(key: str | None, document: Any) -> str:
    message = json.dumps(document, sort_keys=True, ensure_ascii=False)
    return hmac.new(bytes.fromhex(key or ""), message.encode(), sha256).hexdigest()


def _columns(row: object, names: Iterable[str]) -> list[Any]:
    return [_plain(getattr(row, name)) for name in names]


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
