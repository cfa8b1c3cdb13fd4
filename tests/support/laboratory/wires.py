"""An MLLP transport for tests, with messages and acknowledgements."""

from contextlib import asynccontextmanager
from typing import Any

from laboratory import SENT, code_of, report

from service.config.lis import LisSettings
from service.lis.exchange.hl7.results import encode_report
from service.lis.exchange.mllp.transport import MllpTransport
from service.lis.exchange.transport import Transport


@asynccontextmanager
async def transport_to(port: int, host: str = "127.0.0.1", **settings: Any) -> Any:
    made: Transport = MllpTransport(LisSettings(hl7_to=f"{host}:{port}", **{"hl7_timeout_s": 20, **settings}))
    try:
        yield made
    finally:
        await made.close()


def oru(control_id: str, **settings: Any) -> str:
    return encode_report(report(), code_of, LisSettings(**settings), control_id=control_id, sent_at=SENT)


def ack(control_id: str, code: str = "AA", fields: str = "", err: str = "") -> str:
    return f"MSH|^~\\&|LIS|LAB|M|L|2026||ACK^R01^ACK|a-{control_id}|P|2.5.1{fields}\rMSA|{code}|{control_id}\r{err}"
