"""Hosts, ports and field names shared by the servers and the load generator. Imports no library."""

import os

HOST = "127.0.0.1"
PORT = int(os.environ.get("BENCH_PORT", "0"))
#: Requests accepted and not yet answered, for the servers that have such a limit: marrowlens' default.
MAX_QUEUE_SIZE = 256
#: Outputs of the contract (model/contract.py) that an answer holds; attention only if the model has attention maps.
ASKED = ("probabilities", "attention")
