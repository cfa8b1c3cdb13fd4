"""The text of a PDF, page by page."""

import io
import re

from pypdf import PdfReader


def pages(content: bytes) -> list[str]:
    """The text of each page, with single spaces."""
    return [re.sub(r"\s+", " ", page.extract_text()) for page in PdfReader(io.BytesIO(content)).pages]
