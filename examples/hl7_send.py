"""Send an HL7 message over MLLP, and print the acknowledgement, a segment a line.

    .venv-serve-cpu/bin/python examples/hl7_send.py examples/order.hl7 [PORT]

Lines of the file are segments; a file with several messages is sent message by message, in one connection.
"""

import asyncio
import re
import sys
from pathlib import Path

import hl7.mllp


async def _send(messages: list[str], port: int) -> None:
    reader, writer = await hl7.mllp.open_hl7_connection("127.0.0.1", port, encoding="utf-8")
    for message in messages:
        writer.writemessage(hl7.parse(message))
        await writer.drain()
        print(str(await reader.readmessage()).replace("\r", "\n"))  # noqa: T201 (what it is for)
    writer.close()
    await writer.wait_closed()


def _messages(text: str) -> list[str]:
    segments = re.sub(r"[\r\n]+", "\r", text)
    return re.findall(r"MSH\|.*?(?=MSH\||\Z)", segments, re.DOTALL)


if __name__ == "__main__":
    asyncio.run(_send(_messages(Path(sys.argv[1]).read_text("utf-8")), int(sys.argv[2]) if len(sys.argv) > 2 else 2576))
