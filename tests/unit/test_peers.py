"""The comparison with other systems: its oracle, its tables, and its list of abilities.

`make bench` measures; these are the parts without a server.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping

import pytest

from bench.peers import log
from bench.peers.__main__ import command_of
from bench.peers.abilities import (
    ABILITIES,
    EXPLAINED,
    SHOWN_BY_CELLS,
    Ability,
    Evidence,
    lacks,
)
from bench.peers.cells import (
    PERIODS,
    Comparison,
    Tile,
    compare,
    distinct_actions,
    from_tiles,
)
from bench.peers.environments import JAVA, REQUIREMENTS, versions_of_peers
from bench.peers.machine import Load
from bench.peers.measuring import BROKER, Mark, Measured, measured
from bench.peers.report import Context, Run, page, table, unexpected
from bench.peers.runs import Outcome
from bench.peers.systems import DEFAULT, SYSTEMS, Kind, choose

DAY = dt.date(2026, 3, 29)
RECIPE = log.Recipe(events=4_000, day=DAY, customers=300)


@pytest.fixture(scope="module")
def made() -> log.Log:
    return log.make(RECIPE)


# --- the oracle -----------------------------------------------------------------------------------


def test_the_oracle_equals_a_count_of_the_records(made: log.Log) -> None:
    """The oracle is counted while events are made; this counts the JSON of the topic."""
    events = {
        event["interactionId"]: event
        for event in (json.loads(record.value) for record in made.records)
    }
    fields = {"action": "offerId", "treatment": "creativeId", "channel": "channelId"}
    fields["customer"] = "customerId"
    expected: dict[str, int] = {}
    for period, days in PERIODS.items():
        first = DAY - dt.timedelta(days=min(days, 400) - 1)
        inside = [e for e in events.values() if str(first) <= e["timestamp"][:10] <= str(DAY)]
        for grouping, field in fields.items():
            expected[f"groups|{grouping}|{period}"] = len({e[field] for e in inside})
            for e in inside:
                if grouping != "customer" or e[field] in made.sample:
                    name = f"{grouping}|{period}|{e[field]}|{e['outcomeTypeKey']}"
                    expected[name] = expected.get(name, 0) + 1
        for customer in made.sample:
            actions = {e["offerId"] for e in inside if e["customerId"] == customer}
            if actions:
                expected[f"unique|{period}|{customer}"] = len(actions)
    assert made.cells == expected


def test_the_log_has_copies_and_late_events(made: log.Log) -> None:
    ids = [json.loads(record.value)["interactionId"] for record in made.records]
    assert len(ids) == RECIPE.events
    assert made.distinct == len(set(ids)) < RECIPE.events
    days = {json.loads(record.value)["timestamp"][:10] for record in made.records}
    assert days == {str(DAY - dt.timedelta(days=age)) for age in range(log.LATE_DAYS + 1)}


def test_events_of_today_are_not_in_the_future() -> None:
    early = log.make(RECIPE._replace(events=500, seconds=60))
    times = [json.loads(record.value)["timestamp"] for record in early.records]
    today = [time for time in times if time.startswith(str(DAY))]
    assert today
    assert max(today) < f"{DAY}T00:01"


def test_a_log_can_be_made_again(made: log.Log) -> None:
    assert log.make(RECIPE) == made


# --- cells ----------------------------------------------------------------------------------------


def test_a_day_is_in_the_windows_that_reach_it() -> None:
    tiles = [Tile("action", "a", today, "click", 1) for today in (100, 94, 93, 70, 69)]
    cells = from_tiles(tiles, 100, set())
    clicks = {period: cells[f"action|{period}|a|click"] for period in PERIODS}
    assert clicks == {"daily": 1, "weekly": 2, "monthly": 4, "alltime": 5}


def test_customers_outside_of_the_sample_are_only_in_the_number_of_groups() -> None:
    tiles = [Tile("customer", customer, 100, "click", 2) for customer in ("in", "out")]
    cells = from_tiles(tiles, 100, {"in"})
    assert cells["groups|customer|daily"] == 2
    assert cells["customer|daily|in|click"] == 2
    assert not any("|out|" in name for name in cells)


def test_distinct_actions_are_counted_by_their_last_day() -> None:
    cells = distinct_actions([("c", 100), ("c", 95), ("c", 1)], 100)
    assert cells == {
        "unique|daily|c": 1,
        "unique|weekly|c": 2,
        "unique|monthly|c": 2,
        "unique|alltime|c": 3,
    }


@pytest.mark.parametrize(
    ("answered", "right", "wrong"),
    [
        ({"a": 1, "b": 2}, 2, 0),
        ({"a": 1, "b": 2, "zero": 0}, 2, 0),
        ({"a": 1, "b": 3}, 1, 1),
        ({"a": 1}, 1, 1),
        ({"a": 1, "b": 2, "c": 1}, 2, 1),
        ({}, 0, 2),
    ],
    ids=["equal", "a zero more", "another value", "missing", "one too many", "none"],
)
def test_every_difference_is_a_wrong_cell(
    answered: Mapping[str, int], right: int, wrong: int
) -> None:
    compared = compare({"a": 1, "b": 2}, answered)
    assert (compared.right, compared.wrong) == (right, wrong)
    assert len(compared.examples) == wrong


# --- abilities ------------------------------------------------------------------------------------


def test_abilities_are_known_of_every_system() -> None:
    assert ABILITIES.keys() == SYSTEMS.keys()
    for name, answers in ABILITIES.items():
        assert set(answers) == set(Ability), name
    assert set(EXPLAINED) == set(Ability)


def test_what_a_system_cannot_do_has_a_reason() -> None:
    for name, answers in ABILITIES.items():
        for ability, answer in answers.items():
            assert bool(answer.reason) != answer.can, (name, ability)


def test_only_what_a_run_checks_is_claimed_from_it() -> None:
    for name, answers in ABILITIES.items():
        ours = SYSTEMS[name].kind is Kind.OURS
        checked = {*SHOWN_BY_CELLS, *([Ability.HTTP, Ability.PROCESSES] if ours else [])}
        for ability, answer in answers.items():
            if answer.evidence is Evidence.RUN and answer.can:
                assert ability in checked, (name, ability)
                assert SYSTEMS[name].kind is not Kind.STOCK, "its cells are not compared"
            if answer.evidence is Evidence.TESTS:
                assert ours, "tests of this project say nothing about others"


# --- systems --------------------------------------------------------------------------------------


def test_every_system_has_its_program() -> None:
    for name, system in SYSTEMS.items():
        if system.kind is Kind.JAVA:
            assert (JAVA / system.environment / f"{system.program}.java").exists(), name
        elif system.kind is Kind.PYTHON:
            assert (REQUIREMENTS / f"{system.environment}.txt").exists(), name
            assert (REQUIREMENTS.parent / "programs" / f"{system.program}.py").exists(), name


def test_versions_of_the_peers_are_exact() -> None:
    found = versions_of_peers()
    assert {"kafka-streams", "flink", "chdb", "bytewax", "pathway", "confluent-kafka"} <= set(found)
    assert all(version[0].isdigit() for version in found.values())
    for file in REQUIREMENTS.glob("*.txt"):
        lines = [line for line in file.read_text().splitlines() if line and line[0] != "#"]
        assert all("==" in line for line in lines), file.name


def test_systems_are_chosen_by_name() -> None:
    assert choose(None) == list(DEFAULT)
    assert choose("ours-1,chdb-raw") == ["ours-1", "chdb-raw"]
    with pytest.raises(ValueError, match="no such system: nobody"):
        choose("ours-1,nobody")


# --- measuring ------------------------------------------------------------------------------------


def test_rates_and_processor_time_are_those_between_the_marks() -> None:
    marks = {
        "FIRST": Mark(10.0, {"peer": 1.0, BROKER: 5.0}, Load(100.0, 1.0, 2.0)),
        "HALF": Mark(11.5, {"peer": 1.5, BROKER: 5.2}, Load(101.0, 1.0, 2.0)),
        "DONE": Mark(12.0, {"peer": 2.0, BROKER: 5.5}, Load(102.0, 1.0, 2.1)),
        "ALL": Mark(14.0, {"peer": 3.0, BROKER: 6.0}, Load(104.2, 1.4, 2.2)),
    }
    result = measured(marks, 1_000, {"peer": 10.0, BROKER: 20.0})
    assert result.events_s == 500
    assert result.second_half_s == 1_000
    assert result.stored_s == 250
    assert result.cpu_us == {"peer": 2_000, BROKER: 1_000}
    assert (result.total_us, result.total_mb) == (2_000, 10)
    # 4.2 s of the machine, of which 3 s are the system's and the broker's, 0.2 s the bench's.
    assert result.foreign_percent == pytest.approx(25)
    assert result.stolen_percent == pytest.approx(10)


def test_a_system_that_counts_in_one_step_has_no_second_half() -> None:
    load = Load(100.0, 1.0, 2.0)
    marks = {
        name: Mark(at_s, {"peer": 1.0}, load)
        for name, at_s in (("FIRST", 0.0), ("HALF", 9.99), ("DONE", 10.0))
    }
    assert measured(marks, 1_000, {}).second_half_s == 0


# --- the report -----------------------------------------------------------------------------------


def a_run(
    system: str, rate: float, *, foreign: float = 0.0, wrong: int = 0, us: float = 10.0
) -> Run:
    result = Measured(
        events_s=rate,
        second_half_s=rate * 2,
        stored_s=rate / 2,
        cpu_us={"peer": us, BROKER: 1.0},
        memory_mb={"peer": 100.0, BROKER: 300.0},
        foreign_percent=foreign,
        stolen_percent=0.0,
    )
    cells = Comparison(1_000 - wrong, wrong, ())
    return Run(system, 1, True, 40.0, Outcome(result, cells))


def columns(text: str, system: str) -> list[str]:
    line = next(line for line in text.splitlines() if f"`{system}`" in line)
    return [column.strip() for column in line.strip("|").split("|")]


def test_the_table_has_medians_of_quiet_runs_and_the_worst_cells_of_all() -> None:
    runs = [a_run("ours-1", rate, wrong=wrong) for rate, wrong in ((10, 0), (30, 4), (20, 0))]
    runs.append(a_run("ours-1", 1, foreign=80, wrong=7))
    row = columns(table(runs, 15), "ours-1")
    assert row[1] == "**20** (10 to 30)"
    assert row[2:4] == ["40", "10"]
    assert row[4:7] == ["**10.0**", "peer 10.0", "1.0"]
    assert row[8:10] == ["993", "7"]


def test_the_fastest_system_is_the_first_row() -> None:
    runs = [a_run("ours-1", 10), a_run("flink-heap", 30), a_run("pathway", 20)]
    rows = table(runs, 15).splitlines()[2:]
    assert ["flink-heap" in rows[0], "pathway" in rows[1], "ours-1" in rows[2]] == [True] * 3


def test_the_table_says_what_each_system_cannot_do() -> None:
    text = table([a_run(name, 10) for name in SYSTEMS], 15)
    for name in SYSTEMS:
        assert columns(text, name)[-1] == (", ".join(lacks(name)) or "—")
    assert "history of events" in columns(text, "flink-heap")[-1]


def test_a_system_that_failed_keeps_its_row() -> None:
    failed = Run("pathway", 1, True, 40.0, None, "ended with exit code 1")
    assert columns(table([failed], 15), "pathway")[1] == "failed"
    assert "`pathway`: round 1 failed: ended with exit code 1" in page([failed], CONTEXT)


CONTEXT = Context(
    date="2026-03-29 10:00 UTC",
    machine="2 cores",
    command="python -m bench.peers --rounds 1",
    commit="abc1234",
    stores="stores",
    versions={"Java": "17"},
    events=4_000,
    distinct=3_960,
    customers=300,
    rounds=1,
    foreign_max=15,
    minutes=5,
)


def test_the_page_shows_the_command_without_folders_of_the_machine() -> None:
    shown = command_of(["--rounds", "1", "--work", "/somewhere/else", "--events", "9"])
    assert shown == "python -m bench.peers --rounds 1 --events 9"


def test_the_page_says_that_no_run_was_disturbed() -> None:
    text = page([a_run("ours-1", 10)], CONTEXT)
    assert "no run was disturbed" in " ".join(text.split())


def test_the_page_names_systems_that_had_no_quiet_run() -> None:
    text = page([a_run("ours-1", 10, foreign=40), a_run("ours-1", 11, foreign=60)], CONTEXT)
    assert "`ours-1`: no quiet run; foreign load 40 to 60% of one processor" in text


def test_the_page_says_how_many_runs_were_left_out() -> None:
    text = page([a_run("ours-1", 10), a_run("ours-1", 11, foreign=60)], CONTEXT)
    assert "`ours-1`: 1 of 2 runs left out for foreign load" in text


def test_the_page_says_where_we_lose() -> None:
    runs = [a_run("ours-1", 10), a_run("chdb-dedup", 30, us=2), a_run("stock-faust", 5, us=90)]
    losses = page(runs, CONTEXT).partition("## Where we lose")[2].partition("\n## ")[0]
    assert "`chdb-dedup` 3.0×" in losses
    assert "`chdb-dedup` 2.0 µs" in losses
    assert "stock-faust" not in losses


def test_wrong_cells_are_an_error_unless_the_system_has_no_identities() -> None:
    assert unexpected([a_run("ours-1", 10), a_run("chdb-plain", 10, wrong=3)]) == []
    failed = Run("pathway", 2, True, 40.0, None, "ended")
    assert unexpected([a_run("ours-1", 10, wrong=3), failed]) == [
        "ours-1, round 1: 3 wrong cells",
        "pathway, round 2: ended",
    ]


def test_the_page_does_not_claim_from_the_cells_what_they_refute() -> None:
    text = page([a_run("ours-1", 10, wrong=3), a_run("flink-heap", 10)], CONTEXT)
    matrix = text.partition("## What each system does")[2]
    rows = [line for line in matrix.splitlines() if line.startswith("| late events")]
    assert rows == ["| late events | **not shown** (3 wrong cells) | yes (run) |"]
