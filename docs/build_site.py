"""Build the documentation site: collect its pages, then check the finished HTML. `make docs` runs both.

    python docs/build_site.py pages build/site-pages    # Markdown for the site generator (zensical.toml)
    python docs/build_site.py check build/site          # links, anchors and foreign hosts in the finished HTML

Pages link to files outside docs/, such as ../service/auth/policy.py. Such a file becomes a page below `repository/`:
Markdown as it is, source text as a code block, everything else as a download.
"""

import re
import shutil
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
EXTERNAL = re.compile(r"[a-z]+:")
#: Suffixes that are shown as a code block, with the language for highlighting.
SOURCE = {".py": "python", ".toml": "toml", ".csv": "text", ".yaml": "yaml", ".yml": "yaml", ".sh": "bash"}


class BrokenLink(Exception):
    """A link in a page leads to no file or to no heading."""


def outside_code(text: str) -> list[str]:
    """Lines of a Markdown text; lines of code blocks are empty."""
    lines, fence = [], ""
    for line in text.splitlines():
        mark = re.match(r"\s*(`{3,})", line)
        if mark and (not fence or len(mark[1]) >= len(fence)):
            fence = "" if fence else mark[1]
            lines.append("")
        else:
            lines.append("" if fence else line)
    return lines


def slug(heading: str) -> str:
    """The anchor of a heading, as Python-Markdown and GitHub make it for letters, digits and single spaces."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    ascii_text = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_text).strip().lower())


def anchors(page: Path) -> set[str]:
    """Anchors of all headings of a Markdown file."""
    headings = (re.match(r"#{1,6}\s+(.+)", line) for line in outside_code(page.read_text(encoding="utf-8")))
    return {slug(heading[1]) for heading in headings if heading}


def place(path: Path) -> Path:
    """Where a file of the repository lies in the site, relative to the site's root."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS)
    below = Path("repository") / path.relative_to(ROOT)
    return below.with_name(below.name + ".md") if path.suffix in SOURCE else below


def resolve(page: Path, link: str) -> tuple[Path, str]:
    """The file and the anchor that a link in a page leads to. Raises BrokenLink."""
    target, anchor = urldefrag(link)
    path = (page.parent / unquote(target)).resolve() if target else page
    if not path.is_file() or not path.is_relative_to(ROOT):
        raise BrokenLink(f"{page.relative_to(ROOT)}: {link} leads to no file of the repository")
    if anchor and path.suffix == ".md" and anchor not in anchors(path):
        raise BrokenLink(f"{page.relative_to(ROOT)}: {link} leads to no heading of {path.relative_to(ROOT)}")
    return path, anchor


def relative(source: Path, target: Path) -> str:
    """The link from one file of the site to another."""
    ups = len(source.parent.parts)
    return "../" * ups + target.as_posix()


def rewrite(page: Path) -> tuple[str, set[Path]]:
    """A page's Markdown with its links turned to where the files lie in the site, and the linked files."""
    found: set[Path] = set()

    def turned(match: re.Match[str]) -> str:
        if EXTERNAL.match(match[2]):
            return match[0]
        path, anchor = resolve(page, match[2])
        if path == page:
            return match[0]
        found.add(path)
        return match[1] + relative(place(page), place(path)) + (f"#{anchor}" if anchor else "") + match[3]

    original = page.read_text(encoding="utf-8").splitlines()
    prose = outside_code("\n".join(original))
    lines = [LINK.sub(turned, line) if shown else line for line, shown in zip(original, prose, strict=True)]
    return "\n".join(lines) + "\n", found


def code_page(path: Path) -> str:
    """A source file as a Markdown page."""
    text = path.read_text(encoding="utf-8")
    return f"# {path.relative_to(ROOT).as_posix()}\n\n``````{SOURCE[path.suffix]}\n{text}``````\n"


def collect(folder: Path) -> None:
    """Write the site's pages and every file that they link to into an empty folder. Raises BrokenLink."""
    shutil.rmtree(folder, ignore_errors=True)
    waiting = sorted(DOCS.rglob("*.md"))
    done: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        out = folder / place(path)
        out.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text, linked = rewrite(path)
            out.write_text(text, encoding="utf-8")
            waiting += sorted(linked)
        elif path.suffix in SOURCE:
            out.write_text(code_page(path), encoding="utf-8")
        else:
            shutil.copyfile(path, out)


class Page(HTMLParser):
    """Ids and links of an HTML page; `loads` are files that a browser fetches to show it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif "src" in given or (tag == "link" and "href" in given):
            self.loads.add(given.get("src") or given["href"])


def faults(site: Path) -> list[str]:
    """Links and anchors of a finished site that lead nowhere, and files that it loads from another host."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    found = [] if pages else [f"{site} holds no page"]
    for path, page in pages.items():
        if path.name == "404.html":  # its links are relative to the address that was asked for
            continue
        name = path.relative_to(site.resolve())
        found += [f"{name} loads {url}" for url in sorted(page.loads) if EXTERNAL.match(url) or url.startswith("//")]
        for link in sorted(page.links | page.loads):
            if EXTERNAL.match(link):
                continue
            target, anchor = urldefrag(link)
            file = (path.parent / unquote(target)).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file():
                found.append(f"{name}: {link} leads to no file")
            elif anchor and file in pages and unquote(anchor) not in pages[file].ids:
                found.append(f"{name}: {link} leads to no anchor")
    return found


def main(task: str, folder: str) -> None:
    if task == "pages":
        try:
            collect(Path(folder))
        except BrokenLink as error:
            sys.exit(str(error))
    elif found := faults(Path(folder)):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
