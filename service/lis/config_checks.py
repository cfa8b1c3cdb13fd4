"""What can be said of a laboratory's settings without starting it: files that fail it, and rights that others have."""

import ssl
from collections.abc import Iterator

from service.config.lis import LIS_PREFIX, LisSettings
from service.lis.exchange.code_map import CodeMap, CodeTableError
from service.lis.exchange.mllp.sockets import client_tls, listener_tls
from service.lis.storage.database import Database, DatabaseRefused, sqlite_files
from service.lis.storage.file_rights import rights_of_others


def faults(lis: LisSettings) -> Iterator[str]:
    """What the start would fail by: a URL, files of TLS or a table of codes that cannot be used, and the like."""
    if lis.database is None:
        return
    try:
        Database.of(lis)
    except DatabaseRefused as error:
        yield f"{LIS_PREFIX}DATABASE: {error}"
    try:
        CodeMap.load(lis.codes, lis.least_code_status)
    except CodeTableError as error:
        yield f"{LIS_PREFIX}CODES: {error}"
    if lis.pictures is not None and lis.pictures.exists() and not lis.pictures.is_dir():
        yield f"{LIS_PREFIX}PICTURES: {lis.pictures} is no folder"
    for names, load, wanted in (
        ("HL7_TLS_CA, HL7_TLS_CERT, HL7_TLS_KEY", client_tls, lis.hl7_to),
        ("HL7_TLS_CERT, HL7_TLS_KEY, HL7_LISTEN_CA", listener_tls, lis.hl7_listen),
    ):
        try:
            if wanted:
                load(lis)
        except OSError as error:
            unfit = isinstance(error, ssl.SSLError)
            said = "no PEM files that fit" if unfit else f"{error.filename or ''} {error.strerror}".strip()
            yield f"{LIS_PREFIX}{names.replace(', ', f', {LIS_PREFIX}')}: {said}"


def warnings(lis: LisSettings) -> Iterator[str]:
    """Files and folders with patients' data, or pictures, that others than their owner may read or write."""
    if lis.database is None:
        return
    paths = [*sqlite_files(lis.database.get_secret_value()), *([lis.pictures] if lis.pictures else [])]
    yield from filter(None, map(rights_of_others, paths))
