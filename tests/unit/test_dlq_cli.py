"""The `dlq` commands: usage errors, failures, and bytes as text, without any server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.dlq_output import printable
from tests.support.command_line import failed, refused, run


@pytest.mark.parametrize("command", ["dlq", "dlq list", "dlq show", "dlq redrive"])
def test_every_command_has_help(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("place", ["0", "0:", ":1", "a:1", "1:-1", "1:2:3", "1.5:2"])
def test_a_letter_is_named_by_partition_and_offset(place: str) -> None:
    (line,) = refused("dlq", "redrive", "0:1", "--", place).splitlines()
    assert line == f"error: {place!r}: a dead letter is given as PARTITION:OFFSET, for example 0:17"


def test_reasons_are_those_there_are() -> None:
    for command in ("list", "redrive"):
        (line,) = refused("dlq", command, "--reason", "nonsense").splitlines()
        assert line.startswith("error: --reason: 'nonsense' must be one of malformed, too_large, ")


@pytest.mark.parametrize(
    "arguments", [("list", "--limit", "0"), ("show", "0"), ("show", "-1", "0")]
)
def test_bad_usage_is_refused(arguments: tuple[str, ...]) -> None:
    assert "Usage: " in refused("dlq", *arguments)


def test_without_kafka_it_fails_in_one_line() -> None:
    assert "Kafka" in failed("dlq", "list")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "(null)"),
        (b"", ""),
        ("C-1 é 😀".encode(), "C-1 é 😀"),
        (b"\xff\xfe", r"\xff\xfe"),
        (b"a\x1b[31m\n", r"a\x1b[31m\n"),
        ("\u202e".encode(), r"\u202e"),
    ],
)
def test_bytes_are_shown_as_text_that_a_terminal_only_prints(data: bytes | None, text: str) -> None:
    assert printable(data) == text


def test_json_is_shown_with_its_structure_and_what_is_none_as_it_is() -> None:
    assert printable(b'{"a":[1]}', pretty=True) == '{\n  "a": [\n    1\n  ]\n}'
    assert printable(b'{"a":[1]\n\x00', pretty=True) == '{"a":[1]\n\\x00'
    assert printable(b"[" * 5_000, pretty=True) == "[" * 5_000


@given(st.binary(), st.booleans())
def test_nothing_that_a_terminal_obeys_is_ever_printable(data: bytes, pretty: bool) -> None:
    assert all(c.isprintable() or (pretty and c in "\n\t") for c in printable(data, pretty=pretty))
