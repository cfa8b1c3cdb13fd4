"""The picture of docs/verify.md: the beginning of a report, by Chromium.

    marrowlens verify CELLS --out REPORT
    python docs/pictures/verification.py REPORT/verification.html

Only the beginning, which has no picture of a cell.
"""

import subprocess
import sys
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).with_name("verification.png")
WIDTH, HEIGHT = 1180, 1960


def main() -> None:
    """Draw the report."""
    report = Path(sys.argv[1]).resolve()
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
    subprocess.run(["chromium", *options, f"--screenshot={PICTURE}", report.as_uri()], check=True)
    Image.open(PICTURE).convert("RGB").quantize(128, Image.Quantize.MEDIANCUT).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
