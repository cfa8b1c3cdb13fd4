"""A laboratory system to try marrowlens with: takes HL7 over MLLP, prints it, and says that it has it (AA).

    .venv-serve-cpu/bin/python examples/hl7_receiver.py [PORT]

python-hl7's own server; nothing is kept. What it prints is a patient's data.
"""

import asyncio
import sys

import hl7.mllp


async def _converse(reader: hl7.mllp.HL7StreamReader, writer: hl7.mllp.HL7StreamWriter) -> None:
    try:
        while True:
            message = await reader.readmessage()
            print(str(message).replace("\r", "\n"), flush=True)  # noqa: T201 (what it is for)
            writer.writemessage(message.create_ack())
            await writer.drain()
    except asyncio.IncompleteReadError:  # the sender has gone
        writer.close()


async def _listen(port: int) -> None:
    async with await hl7.mllp.start_hl7_server(_converse, "127.0.0.1", port, encoding="utf-8") as server:
        print(f"listening on 127.0.0.1:{port}", flush=True)  # noqa: T201
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_listen(int(sys.argv[1]) if len(sys.argv) > 1 else 2575))
