"""Where servers listen and what they are asked for. Knows no library, so that the load generator can know it too."""

HOST = "127.0.0.1"
#: Outputs of the contract (model/contract.py) that an answer holds.
ASKED = ("probabilities", "attention")
