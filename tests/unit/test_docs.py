"""Documentation and code agree.

Every setting, command, endpoint, metric and reason is documented, tables equal those generated from
the code, and links have a target.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import docs_page, openapi, page_routes
from api.access import KEY_HEADER, TENANT_HEADER
from api.app import build
from api.csv_body import encode_csv
from api.errors import CODES
from api.rate_limit import Budget
from cli.console import BAD_USAGE, FAILED, SUCCESS
from store.records import GROUPINGS, SYSTEM_OUTCOME_TYPES, Catalog, GroupCounts
from store.settings import Settings
from store.summary import POINT_FIELDS, ROW_FIELDS, percent, row
from streams.decode.rejection import Reason
from tests.support.doc_tables import TABLES, commands, find_table

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
OPERATIONS = ROOT / "docs/operations.md"
API = ROOT / "docs/api.md"
COMMANDS = ROOT / "docs/commands.md"
EVENTS = ROOT / "docs/events.md"
ARCHITECTURE = ROOT / "docs/architecture.md"
ADRS = sorted((ROOT / "docs/adr").glob("*.md"))
CHANGELOG = ROOT / "CHANGELOG.md"
DOCS = [README, CHANGELOG, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README_LINES_MAX = 160


# --- generated tables -----------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "mark"), TABLES, ids=[mark for _, mark in TABLES])
def test_a_table_equals_the_one_generated_from_the_code(path: Path, mark: str) -> None:
    written = find_table(path.read_text(), mark)[2]
    assert written == TABLES[path, mark](), "run: python -m tests.support.doc_tables"


# --- completeness ---------------------------------------------------------------------------------


def test_every_endpoint_is_in_the_api_guide() -> None:
    app = build(Settings(api_key_pepper="p" * 32))
    paths = {*app.openapi()["paths"], docs_page.PATH, page_routes.PATH, app.openapi_url}
    assert {"/api/v1/interaction-summary", "/healthz", "/readyz", "/metrics"} <= paths
    text = API.read_text()
    assert [path for path in sorted(paths) if f"`{path}`" not in text] == []


def test_every_error_is_in_the_api_guide() -> None:
    rows = dict(re.findall(r"^\| (\d{3}) \| `([A-Z_]+)` \|", API.read_text(), re.MULTILINE))
    assert {int(status): code for status, code in rows.items()} == CODES


def test_every_header_of_a_response_is_in_the_api_guide() -> None:
    text = API.read_text()
    described = {
        **openapi.SUMMARY_RESPONSES[200]["headers"],
        **openapi.GROUP_RESPONSES[200]["headers"],
        **openapi.TREND_RESPONSES[200]["headers"],
    }
    budget = Budget(limit=1, used=2, reset_s=3).headers()
    headers = {*described, *budget, TENANT_HEADER, KEY_HEADER, "Retry-After", "Authorization"}
    assert [name for name in sorted(headers) if name not in text] == []


def test_every_exit_code_is_explained() -> None:
    text = COMMANDS.read_text()
    for code, meaning in ((SUCCESS, "success"), (FAILED, "failure"), (BAD_USAGE, "wrong usage")):
        assert re.search(rf"\b{code} is\s+{meaning}", text), meaning


def test_the_outcome_types_of_the_system_are_listed_by_their_class() -> None:
    text = EVENTS.read_text()
    for classification in ("positive", "negative", "neutral"):
        keys = [t.key for t in SYSTEM_OUTCOME_TYPES.values() if t.classification == classification]
        listed = re.findall(rf"^\| {classification} \| (.*) \|$", text, re.MULTILINE)
        assert sorted(re.findall(r"`(\w+)`", listed[0])) == sorted(keys)


def test_every_reason_of_a_dead_letter_is_explained() -> None:
    text = OPERATIONS.read_text()
    assert [reason for reason in Reason if f"| `{reason}` |" not in text] == []


def test_every_reason_of_a_fallback_to_history_is_explained() -> None:
    """Reasons of the counter store, and those that the reader adds."""
    reasons: set[str] = set()
    for script in ("read", "answering", "group", "trend"):
        text = (ROOT / f"store/redis/lua/{script}.lua").read_text()
        reasons |= set(re.findall(r"return \{'(\w+)'\}", text))
    for module in (
        "api/reader.py",
        "store/redis/reads.py",
        "store/redis/group_reads.py",
        "store/redis/shard_scripts.py",
        "store/shard_pages.py",
    ):
        reasons |= set(re.findall(r'Incomplete\("(\w+)"\)', (ROOT / module).read_text()))
    assert {"no_generation", "timeout", "no_period", "pending"} <= reasons
    text = OPERATIONS.read_text()
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in text] == []


def test_warnings_and_errors_of_the_worker_are_in_the_operations_guide() -> None:
    """The first 40 characters are enough: some texts are long."""
    lines = set(_log_lines("streams", {"warning", "error"}))
    assert len(lines) > 10
    text = OPERATIONS.read_text()
    assert [line for line in sorted(lines) if line[:40] not in text] == []


def test_log_lines_of_the_operations_guide_exist() -> None:
    section = OPERATIONS.read_text().partition("## Log lines")[2].partition("\n## ")[0]
    quoted = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert len(quoted) > 10
    levels = {"debug", "info", "warning", "error", "exception"}
    known = [line for part in ("streams", "api") for line in _log_lines(part, levels)]
    unknown = [q for q in quoted if not any(line.startswith(q.removesuffix("…")) for line in known)]
    assert unknown == []


def _log_lines(package: str, levels: set[str]) -> Iterator[str]:
    """Yield the texts of all calls `logger.LEVEL("text", …)` in a package."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in levels
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id.endswith("logger")
                and isinstance(node.args[0], ast.Constant)
            ):
                yield str(node.args[0].value)


# --- examples -------------------------------------------------------------------------------------


def test_the_api_guide_shows_an_answer_of_every_grouping_with_the_fields_there_are() -> None:
    answers = [json.loads(block) for block in _blocks(API, "json") if '"summary"' in block]
    assert {answer["groupBy"] for answer in answers} == set(GROUPINGS)
    answers += [json.loads(block) for block in _blocks(README, "json") if '"groupBy"' in block]
    assert len(answers) == len(GROUPINGS) + 1
    empty = GroupCounts("", {}, 0)
    for answer in answers:
        assert list(answer) == ["groupBy", "days", "summary", "total", "limit", "offset"]
        for shown in answer["summary"]:
            assert list(shown) == list(row(answer["groupBy"], empty, Catalog("default")))
            if "ctr" in shown:
                assert shown["ctr"] == percent(shown["click"], shown["impression"])
            if "cvr" in shown:
                assert shown["cvr"] == percent(shown["convert"], shown["impression"])
            if "neutral" in shown:
                rest = shown["impression"] - shown["positive"] - shown["negative"]
                assert shown["neutral"] == rest


def test_the_api_guide_shows_a_group_and_a_trend_with_the_fields_there_are() -> None:
    (group,) = [json.loads(b) for b in _blocks(API, "json") if '"periods"' in b]
    assert list(group) == ["groupBy", "id", "periods"]
    assert list(group["periods"]) == ["daily", "weekly", "monthly", "alltime"]
    for shown in group["periods"].values():
        assert list(shown) == ["windowStart", "row"]
        assert list(shown["row"]) == [field.name for field in ROW_FIELDS[group["groupBy"]]]
        assert shown["row"]["ctr"] == percent(shown["row"]["click"], shown["row"]["impression"])
    (trend,) = [json.loads(b) for b in _blocks(API, "json") if '"points"' in b]
    assert list(trend) == ["groupBy", "id", "days", "points", "previous"]
    dates = [shown["date"] for shown in (*trend["previous"], *trend["points"])]
    assert dates == sorted(set(dates))
    assert len(dates) == 2 * trend["days"]
    for shown in (*trend["previous"], *trend["points"]):
        assert list(shown) == [field.name for field in POINT_FIELDS]
        assert shown["total"] >= sum(
            shown[key] for key in ("impression", "click", "dismiss", "accept", "convert")
        )
        assert shown["ctr"] == percent(shown["click"], shown["impression"])
        assert shown["cvr"] == percent(shown["convert"], shown["impression"])


def test_the_api_guide_shows_the_rows_of_its_example_as_csv() -> None:
    (shown,) = _blocks(API, "csv")
    (channels,) = [
        json.loads(b) for b in _blocks(API, "json") if '"summary"' in b and '"channel",' in b
    ]
    fields = [field.name for field in ROW_FIELDS["channel"]]
    assert shown == encode_csv(fields, channels["summary"]).decode().replace("\r\n", "\n")


def test_the_api_guide_has_the_client_that_is_tested() -> None:
    assert _blocks(API, "python") == [(ROOT / "examples/client.py").read_text()]


def _blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def test_commands_in_the_documentation_exist() -> None:
    known = commands()
    groups = {name.partition(" ")[0] for name in known if " " in name}
    wrong = []
    for path in DOCS:
        for words in re.findall(r"interaction-summary ([a-z]+(?: [a-z]+)?)", path.read_text()):
            first, _, second = words.partition(" ")
            if first not in known and (first not in groups or (second and words not in known)):
                wrong.append((path.name, words))
    assert wrong == []


def test_options_in_the_documentation_exist() -> None:
    known = {option for command in commands().values() for p in command.params for option in p.opts}
    wrong = []
    for path in DOCS:
        for name, rest in re.findall(
            r"interaction-summary ([a-z]+(?: (?:list|show|redrive|import|export))?)([^`\n]*)",
            path.read_text(),
        ):
            wrong += [
                (path.name, name, option)
                for option in re.findall(r"--[a-z-]+", rest)
                if option not in known
            ]
    assert wrong == []


# --- links and decisions --------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_has_a_target(path: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        if not found.exists() or (anchor and anchor not in _anchors(found)):
            wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize(
    "path",
    [path for path in DOCS if path != CHANGELOG],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_file_that_is_named_exists(path: Path) -> None:
    named = re.findall(
        r"`((?:api|bench|cli|deploy|docs|store|streams|tests)/[\w./-]*|\.ci/run)`", path.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", [README, ARCHITECTURE], ids=["README", "architecture"])
def test_every_file_that_is_named_without_its_folder_exists(path: Path) -> None:
    """`fast.py`, say: it must be beside a file that the same line names with its folder."""
    wrong = []
    for line in path.read_text().splitlines():
        names = re.findall(r"`([\w./-]+\.(?:py|lua|sql))`", line)
        folders = [(ROOT / name).parent for name in names if "/" in name]
        wrong += [
            name
            for name in names
            if "/" not in name and not any((folder / name).exists() for folder in folders)
        ]
    assert wrong == []


@pytest.mark.parametrize("package", ["streams", "streams/audit", "streams/dead_letters", "api"])
def test_the_architecture_names_every_module(package: str) -> None:
    text = ARCHITECTURE.read_text()
    modules = sorted(path for path in (ROOT / package).glob("*.py") if path.stem != "__init__")
    assert modules
    assert [
        path.name
        for path in modules
        if f"`{package}/{path.name}`" not in text and f"`{path.name}`" not in text
    ] == []


def test_the_readme_is_short() -> None:
    text = re.sub("<!-- settings -->.*<!-- /settings -->", "", README.read_text(), flags=re.DOTALL)
    assert len(text.splitlines()) < README_LINES_MAX


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def _anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", _without_code(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_decisions_are_numbered_without_gaps_and_have_all_sections() -> None:
    assert [int(path.name[:4]) for path in ADRS] == list(range(1, len(ADRS) + 1))
    for path in ADRS:
        text = path.read_text()
        for section in ("## Context", "## Decision", "## Consequences"):
            assert section in text, (path.name, section)


def test_the_readme_opens_with_a_screenshot_that_is_small() -> None:
    first = re.search(r"!\[[^]]+\]\(([^)]+)\)", README.read_text())
    assert first is not None and first[1] == "docs/page.png"
    screenshot = (ROOT / "docs/page.png").read_bytes()
    assert screenshot.startswith(b"\x89PNG")
    assert 20_000 < len(screenshot) < 200_000


def test_the_picture_is_shown_and_loads_nothing_from_the_network() -> None:
    assert "](docs/picture.svg)" in README.read_text()
    picture = (ROOT / "docs/picture.svg").read_text()
    assert re.findall(r"(?:href|src|url\()[^>]*//", picture) == []
