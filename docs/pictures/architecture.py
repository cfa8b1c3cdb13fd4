"""Draw docs/pictures/rooms.svg from the import contracts of pyproject.toml, and picture-path.svg.

python docs/pictures/architecture.py [FOLDER]        (any Python 3.11; no packages)
"""

import sys
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Contract in pyproject.toml and heading of its column.
COLUMNS = (
    ("Rooms of the service, downwards only", "service/"),
    ("Rooms of the laboratory, downwards only", "service/lis/"),
    ("Rooms of the training side, downwards only", "training/"),
)
WIDTH, ROW, GAP = 280, 30, 10  # pixels of a column, a row, the space between rows
ARROW = """<defs><marker id="arrow" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">
<path d="M0,0 L8,4 L0,8 z" fill="#52606d"/></marker></defs>"""
#: Attributes of texts and boxes by kind. Attributes, not CSS: every renderer knows them.
TEXTS = {
    "": 'font-size="13" fill="#1f2933"',
    "head": 'font-size="15" font-weight="600" fill="#1f2933"',
    "small": 'font-size="11" fill="#52606d"',
}
BOXES = {"": 'fill="#f0f4f8" stroke="#9fb3c8"', "shared": 'fill="#fff3c4" stroke="#de911d"', "back": 'fill="#ffffff"'}
#: The way of a picture: title, what happens, data that goes on.
STEPS = (
    ("server", ("uvicorn", "heads, bodies, time"), "bytes"),
    ("auth", ("key or token", "scope, rate limit"), "request"),
    ("api", ("form, archive,", "NDJSON, raw body"), "encoded picture"),
    ("inference", ("decode, resize", "collect a batch"), "uint8 (N, S, S, 3)"),
    ("runtime", ("ONNX graph: scale,", "network, softmax"), "five outputs"),
    ("inference, api", ("answer, heatmaps", "JSON or NDJSON"), ""),
)


def svg(width: int, height: int, label: str, body: list[str]) -> str:
    """An SVG document on white."""
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"'
    start = f'{head} font-family="system-ui, sans-serif" aria-label="{escape(label)}">'
    return "\n".join([start, ARROW, box(0, 0, width, height, "back"), *body, "</svg>", ""])


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" {TEXTS[kind]}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str = "") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" {BOXES[kind]}/>'


def arrow(path: str) -> str:
    return f'<path d="{path}" stroke="#52606d" fill="none" marker-end="url(#arrow)"/>'


def rooms() -> str:
    """One column a contract, one row a layer; rooms of one layer lie side by side."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    layers = {contract["name"]: contract.get("layers", []) for contract in tool["importlinter"]["contracts"]}
    rows = max(len(layers[name]) for name, _ in COLUMNS)
    height = 50 + rows * (ROW + GAP) + 60
    body: list[str] = []
    for column, (name, title) in enumerate(COLUMNS):
        left: float = 20 + column * (WIDTH + 40)
        body.append(text(left + WIDTH / 2, 26, title, "head"))
        for row, layer in enumerate(layers[name]):
            names = [part.strip() for part in layer.split("|")]
            x, y = left, 40 + row * (ROW + GAP)
            for room, width in zip(names, room_widths(names), strict=True):
                body += [box(x, y, width, ROW), text(x + width / 2, y + 20, room)]
                x += width + GAP
        bottom = 40 + len(layers[name]) * (ROW + GAP) - GAP
        body.append(arrow(f"M{left - 8:g},40 V{bottom:g}"))
    width = 20 + len(COLUMNS) * (WIDTH + 40) - 20
    y = height - 46
    body += [
        box(20, y, width - 40, ROW, "shared"),
        text(width / 2, y + 20, "model/: contract, picture decoding, drift; networks for training only"),
    ]
    return svg(width, height, "Rooms by package; imports go down only", body)


def room_widths(names: list[str]) -> list[float]:
    """Widths of the boxes of one row: margins for each, and the rest by the lengths of the names."""
    margin = 20
    free = WIDTH - GAP * (len(names) - 1) - margin * len(names)
    return [round(margin + free * len(name) / sum(map(len, names)), 1) for name in names]


def picture_path() -> str:
    """The rooms that a picture passes, from left to right."""
    wide, high, between = 138, 74, 22
    body: list[str] = []
    for step, (title, lines, data) in enumerate(STEPS):
        x = 14 + step * (wide + between)
        body += [box(x, 20, wide, high), text(x + wide / 2, 42, title, "head")]
        body += [text(x + wide / 2, 62 + 16 * line, words, "small") for line, words in enumerate(lines)]
        if data:
            body.append(arrow(f"M{x + wide:g},57 h{between - 2:g}"))
            body.append(text(x + wide + between / 2, 112, data, "small"))
    width = 14 * 2 + len(STEPS) * (wide + between) - between
    return svg(width, 126, "Way of a picture: server, auth, api, inference, runtime, answer", body)


def main(folder: str = str(ROOT / "docs/pictures")) -> None:
    Path(folder, "rooms.svg").write_text(rooms(), encoding="utf-8")
    Path(folder, "picture-path.svg").write_text(picture_path(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
