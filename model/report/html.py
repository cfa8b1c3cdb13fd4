"""A report as one HTML file without external resources or scripts; images are embedded. Jinja2 escapes all text."""

from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from model.report.page import Page


def render(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = files("model.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(page=page)
