"""Counts in sentences: `1 message`, `2 messages`."""


def plural(count: int, noun: str, several: str | None = None) -> str:
    """A count and its noun, in the singular for 1. `several` is an irregular plural."""
    return f"{count} {noun if count == 1 else several or f'{noun}s'}"
