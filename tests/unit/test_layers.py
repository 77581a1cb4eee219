"""The layers of the code, checked in its source.

Imports point one way, `cli → streams, api → store`. Kafka clients and SQL each have one place.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("store", "streams", "api", "cli")
FOLDERS = (*LAYERS, "bench", "tests")
CLASS_LINES_MAX = 200

#: Layer -> the packages of this repository that it must not import.
FORBIDDEN = {
    "store": ("streams", "api", "cli", "bench", "tests"),
    "streams": ("api", "cli", "bench", "tests"),
    "api": ("streams", "cli", "bench", "tests"),
    "cli": ("bench", "tests"),
}
KAFKA_CLIENTS = ("aiokafka", "kafka", "faust.transport")
#: Where a Kafka client may be imported: one package, and the command that creates the topics.
KAFKA_FILES = ("streams/kafka/", "cli/migrate.py")
POSTGRES_CLIENTS = ("psycopg", "psycopg_pool")
SQL = re.compile(
    r"\b(SELECT\b.+\bFROM|INSERT\s+INTO|UPDATE\b.+\bSET|DELETE\s+FROM|(CREATE|DROP)\s+TABLE"
    r"|SELECT\s+\d)\b",
    re.DOTALL,
)


def _files(*folders: str) -> list[str]:
    return sorted(
        str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py")
    )


@cache
def _tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), path)


def imported(path: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of every import, those inside functions included.

    `from a import b` yields `a.b`, since `b` may be a module.
    """
    package = Path(path).parent.parts
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = [*start, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def imports_of(path: str, modules: tuple[str, ...]) -> list[str]:
    """Return each import of one of `modules`, or of something inside one, as `path:line: name`."""
    return [
        f"{path}:{line}: {name}"
        for line, name in imported(path)
        if any(name == module or name.startswith(f"{module}.") for module in modules)
    ]


@pytest.mark.parametrize("path", _files(*LAYERS))
def test_imports_point_one_way(path: str) -> None:
    assert imports_of(path, FORBIDDEN[Path(path).parts[0]]) == []


@pytest.mark.parametrize("path", [p for p in _files(*LAYERS) if not p.startswith(KAFKA_FILES)])
def test_only_streams_kafka_imports_a_kafka_client(path: str) -> None:
    assert imports_of(path, KAFKA_CLIENTS) == []


@pytest.mark.parametrize("path", _files("streams", "api", "cli"))
def test_only_store_knows_postgres(path: str) -> None:
    found = imports_of(path, POSTGRES_CLIENTS) + [
        f"{path}:{node.lineno}: {node.value[:60]!r}"
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.search(node.value)
    ]
    assert found == []


@pytest.mark.parametrize("path", _files("tests", "bench"))
def test_no_module_imports_a_test_module(path: str) -> None:
    found = [
        f"{path}:{line}: {name}"
        for line, name in imported(path)
        if any(part.startswith("test_") for part in name.split(".") if name.startswith("tests."))
        and (ROOT / Path(*name.split(".")[:3])).with_suffix(".py").exists()
    ]
    assert found == []


@pytest.mark.parametrize("path", [p for p in _files(*FOLDERS) if p.endswith("/__init__.py")])
def test_each_package_says_what_is_in_it(path: str) -> None:
    assert ast.get_docstring(_tree(path)), f"{path} has no docstring"


@pytest.mark.parametrize("path", _files(*LAYERS))
def test_classes_are_small(path: str) -> None:
    lines = {
        node.name: (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ClassDef)
    }
    assert {name: n for name, n in lines.items() if n >= CLASS_LINES_MAX} == {}


def test_every_folder_with_code_has_a_layer() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == set(FOLDERS)


def test_the_rules_find_what_they_forbid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above read the source, so each way to write an import has to be recognized."""
    (tmp_path / "streams").mkdir()
    (tmp_path / "streams" / "bad.py").write_text(
        "import api.app\n"
        "from cli import main\n"
        "from . import worker\n"
        "from .kafka import consumer\n"
        "from faust import transport\n"
        "def late():\n"
        "    import kafka.admin as admin\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = "streams/bad.py"
    assert [name for _, name in imported(path)] == [
        "api.app",
        "cli.main",
        "streams.worker",
        "streams.kafka.consumer",
        "faust.transport",
        "kafka.admin",
    ]
    assert len(imports_of(path, FORBIDDEN["streams"])) == 2
    assert len(imports_of(path, KAFKA_CLIENTS)) == 2
