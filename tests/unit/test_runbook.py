"""Every section of the runbook has commands, and a test that runs them.

`tests/e2e/test_runbook.py` runs all blocks of the section that it names; the test fails if one is
left.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.runbook import RUNBOOK, Block, following, parse

CASES = Path(__file__).parents[1] / "e2e/test_runbook.py"


def test_every_section_of_the_runbook_has_a_test() -> None:
    assert sorted(named_sections(CASES.read_text())) == sorted(parse(RUNBOOK.read_text()))


def test_every_section_of_the_runbook_has_commands() -> None:
    assert [title for title, blocks in parse(RUNBOOK.read_text()).items() if not blocks] == []


def test_the_runbook_has_no_commands_outside_of_its_sections_or_in_other_blocks() -> None:
    text = RUNBOOK.read_text()
    blocks = sum(len(blocks) for blocks in parse(text).values())
    fences = [line for line in text.splitlines() if line.lstrip().startswith("```")]
    assert fences == ["```sh", "```"] * blocks


def test_a_block_gives_the_exit_code_that_it_ends_with() -> None:
    text = "# Page\n## One\n```sh\na\n```\ntext\n```sh\nb   # exit code 1: differs\n```\n## Two\n"
    assert parse(text) == {
        "One": [Block("a\n", 0), Block("b   # exit code 1: differs\n", 1)],
        "Two": [],
    }


def test_a_block_that_was_not_run_fails_its_test(tmp_path: Path) -> None:
    section = next(iter(parse(RUNBOOK.read_text())))
    with pytest.raises(AssertionError, match="not run"), following(section, {"PATH": ""}, tmp_path):
        pass


def named_sections(source: str) -> list[str]:
    """Return the sections that tests name in `scene.case("…")`."""
    return [
        node.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "case"
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    ]
