"""SQL statements, one file each. Callers `load` them once, at import."""

from __future__ import annotations

from importlib.resources import files


def load(name: str) -> str:
    """Return the text of `name`.sql. Values are passed as parameters, never put into the text."""
    return files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
