"""Where the checkout lies, and the real cells and cases beside it, which are not part of the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[3]
PEERS = ROOT / "tests" / "peers"
SHARED = ROOT.parent / "shared"
