"""The SQL statements, one file each. `load(name)` reads one; callers do it once, at import."""

from __future__ import annotations

from importlib.resources import files


def load(name: str) -> str:
    """The text of `name`.sql. Values come as parameters, never into the text."""
    return files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
