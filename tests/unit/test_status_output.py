"""Output of `status`: what needs attention comes first, with the command that mends it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cli.status_document import GenerationStatus, LogChangeStatus, MissingStatus, Sizes, Status
from cli.status_output import PROBLEMS_MAX, TENANTS_MAX
from cli.status_words import ago, duration, joined, listed, progress_of, size
from tests.support.status_reports import (
    AT,
    audit,
    behind,
    broken_report,
    done_rebuild,
    failed_rebuild,
    gap,
    partition,
    report_of,
    running_rebuild,
    tenant,
    text_of,
)

RUN = "interaction-summary"
OLD_TOPIC = "5f6c9d02-0000-4000-8000-000000000000"


def only_problem(report: Status) -> tuple[str, str]:
    (problem,) = report.attention
    text = text_of(report, width=200)
    assert text.startswith(f"needs attention (1)\n  {problem.problem}\n      -> {problem.remedy}\n")
    return problem.problem, problem.remedy


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("tenants", [0, 1, 30])
def test_a_healthy_system_needs_no_attention(partitions: int, tenants: int) -> None:
    report = report_of(
        partitions=[partition(n) for n in range(partitions)],
        tenants=[
            tenant(f"t-{n}", last_audit=audit(), last_rebuild=done_rebuild())
            for n in range(tenants)
        ],
    )
    lines = text_of(report).splitlines()
    assert lines[0] == "nothing needs attention"
    assert max(map(len, lines)) <= 100
    assert sum("worker-0.internal:17" in line for line in lines) == partitions
    assert sum("counters" in line and "2026-11-26 UTC" in line for line in lines) == tenants


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("tenants", [0, 1, 30])
@pytest.mark.parametrize("width", [80, 100])
def test_a_broken_system_fits_into_a_terminal(partitions: int, tenants: int, width: int) -> None:
    lines = text_of(broken_report(partitions=partitions, tenants=tenants), width=width).splitlines()
    assert lines[0].startswith("needs attention (")
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("fields", "problem", "remedy"),
    [
        pytest.param(
            {"complete": False, "generation": 4, "missing": behind(2)},
            "generation 4 is catching up, 1,200 of 5,000 offsets to go (partition 2); "
            "history answers",
            "nothing: workers count them",
            id="behind after a swap",
        ),
        pytest.param(
            {"complete": False, "generation": 4, "missing": behind(2, topic_id=OLD_TOPIC)},
            "generation 4 lacks 1,200 offsets of a topic that is gone; history answers",
            f"`{RUN} rebuild --tenant acme`",
            id="behind in a topic that was recreated",
        ),
        pytest.param(
            {"complete": False, "missing": MissingStatus(gaps=[gap()])},
            "generation 1 lacks offsets 0 to 1,099 of partition 1, which history has; "
            "history answers",
            f"`{RUN} rebuild --tenant acme --from history`",
            id="gap",
        ),
        pytest.param(
            {"complete": False, "missing": MissingStatus(unproven=True)},
            "generation 1 started empty, and history may have more; history answers",
            f"`{RUN} rebuild --tenant acme`, unless the topic has all of it: then wait",
            id="unproven",
        ),
        pytest.param(
            {"complete": False, "missing": MissingStatus(unsettled=True)},
            "the change to the shards of generation 1 was not finished; history answers",
            "any worker finishes it within seconds: look at the log of the workers",
            id="unsettled",
        ),
        pytest.param(
            {"catalog_timezone": "Asia/Tokyo"},
            "its time zone is Asia/Tokyo, and the counters have days of UTC; history answers",
            f"`{RUN} rebuild --tenant acme`",
            id="time zone",
        ),
        pytest.param(
            {"over": {"customer": 3, "action": 1}},
            "more ids than KEYS_PER_GROUPING_MAX (customer and action); history answers there",
            f"raise it if Redis has room, then `{RUN} rebuild --tenant acme`",
            id="overflow",
        ),
        pytest.param(
            {"over": {"customer_offers": 3}},
            "customers with more offers than OFFERS_PER_CUSTOMER_MAX; history answers there",
            f"raise it if Redis has room, then `{RUN} rebuild --tenant acme`",
            id="offers of a customer",
        ),
        pytest.param(
            {"last_audit": audit("drift", cells=3)},
            "3 counts differ from history (audit 5 min ago, in a sample)",
            f"`{RUN} audit --tenant acme --repair`",
            id="drift",
        ),
        pytest.param(
            {"day": "2026-11-20", "rolled": "2026-11-20"},
            "its windows end with 2026-11-20, and today is 2026-11-26",
            "any worker rolls them: look at the log of the workers",
            id="windows",
        ),
    ],
)
def test_a_tenants_problem_names_what_mends_it(
    fields: dict[str, Any], problem: str, remedy: str
) -> None:
    report = report_of(tenants=[tenant(**fields), tenant("other")])
    assert only_problem(report) == (f"tenant acme: {problem}", remedy)
    assert report.attention[0].tenants == ["acme"]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"day": "2026-11-25", "rolled": "2026-11-25"}, id="just after midnight"),
        pytest.param(
            {"generation": 2, "last_audit": audit("drift", cells=3)}, id="drift of old counters"
        ),
        pytest.param({"last_audit": audit("skipped")}, id="skipped audit"),
        pytest.param({"catalog_timezone": None}, id="time zone unknown"),
    ],
)
def test_what_needs_no_attention_of_a_tenant(fields: dict[str, Any]) -> None:
    assert report_of(tenants=[tenant(**fields)]).attention == []


@pytest.mark.parametrize(
    ("fields", "problem", "remedy"),
    [
        pytest.param(
            {
                "partitions": [
                    partition(),
                    partition(1, owner=None, reported_at="2026-11-26T11:40:00Z"),
                ]
            },
            "no worker counts partition 1 (last report 20 min ago)",
            f"start workers: `{RUN} worker`",
            id="partition without a worker",
        ),
        pytest.param(
            {"partitions": [partition(n, owner=None, reported_at=None) for n in range(6)]},
            "no worker counts partitions 0, 1, 2 and 3 more (no report yet)",
            f"start workers: `{RUN} worker`",
            id="no worker ever",
        ),
        pytest.param(
            {"partitions": [partition(3, lag=12_000, history_lag=12_000, waiting_ms=300_000)]},
            "partition 3: 12,000 events are not counted, the oldest waits 5 min",
            "start more workers; if the rate is 0, look at the log of the worker that owns it",
            id="lag",
        ),
        pytest.param(
            {"partitions": [partition(3, history_lag=50_000)]},
            "partition 3: history is 50,000 events behind",
            "look at PostgreSQL, and at the log of the workers",
            id="history is behind",
        ),
        pytest.param(
            {"history_gaps": [gap(0, 5, 6)], "history_gap_offsets": 1},
            "history lacks offsets 5 to 5 of partition 0: the counters have the only copy of these "
            "events, if any",
            "restore these rows from a backup; do not rebuild with --force",
            id="gap of history",
        ),
        pytest.param(
            {"dead_letters": 12, "newest_dead_letter_at": "2026-11-26T11:58:00Z"},
            "dead letters: 12, the newest 2 min ago",
            f"`{RUN} dlq list`, then `{RUN} dlq redrive` once the cause is gone",
            id="dead letters",
        ),
        pytest.param(
            {"quarantined": 2, "newest_quarantined_at": "2026-11-26T11:58:00Z"},
            "quarantined records: 2, the newest 2 min ago: they are neither counted nor in the "
            "dead-letter topic",
            f"`{RUN} dlq list` says why; send them again from their source",
            id="quarantined records",
        ),
        pytest.param(
            {"log_changes": [LogChangeStatus("cut", "x", "2026-11-26T11:00:00Z")]},
            "the topic was truncated 60 min ago",
            f"when the lag is 0: `{RUN} audit`; send again what was not counted by then",
            id="log change",
        ),
        pytest.param(
            {"failed_rebuilds": {"gone": failed_rebuild()}},
            "tenant gone: its last rebuild failed 60 min ago: history has 1,100 events fewer",
            f"mend the cause, then `{RUN} rebuild --tenant gone`; the live counters are as before",
            id="failed rebuild",
        ),
        pytest.param(
            {"sizes": Sizes(10, 10, 100, "allkeys-lru", redis_evicts_counters=True)},
            "Redis may evict counters: its maxmemory-policy is allkeys-lru; history answers",
            "`CONFIG SET maxmemory-policy noeviction`, and the same in its configuration",
            id="eviction",
        ),
        pytest.param(
            {"sizes": Sizes(91, 10, 100, "noeviction", redis_used_ratio=0.9)},
            "Redis uses 90% of maxmemory; when it is full, counting waits",
            "raise maxmemory",
            id="memory",
        ),
        pytest.param(
            {"sizes": Sizes(101, 10, 100, "noeviction", redis_used_ratio=1.01)},
            "Redis is full (101% of maxmemory): nothing is counted until it has room",
            "raise maxmemory",
            id="memory full",
        ),
        pytest.param(
            {"sizes": Sizes(10, 10, redis_unsaved_s=7_200)},
            "Redis has no append-only file, and has saved no snapshot for 2 h: "
            "a restart loses the counts since then",
            "`CONFIG SET appendonly yes`, and the same in its configuration",
            id="no persistence",
        ),
        pytest.param(
            {"tenants": [tenant(complete=False, missing=MissingStatus(evicted=True))]},
            "tenant acme: Redis has evicted keys, perhaps of generation 1; history answers",
            f"once its maxmemory-policy is noeviction: `{RUN} rebuild --tenant acme`",
            id="evicted",
        ),
        pytest.param(
            {"tenants": [tenant(complete=False, missing=MissingStatus(damaged="WRONGTYPE"))]},
            "tenant acme: a script that changed generation 1 failed half-way (WRONGTYPE); history "
            "answers",
            "`interaction-summary rebuild --tenant acme`",
            id="damaged",
        ),
        pytest.param(
            {"tenants": [tenant(complete=False, missing=MissingStatus(outdated=True))]},
            "tenant acme: generation 1 was made by an older version; history answers",
            f"`{RUN} rebuild --tenant acme`; workers do it at their start",
            id="outdated",
        ),
        pytest.param(
            {"errors": {"postgres": "Postgres: refused"}, "history_gaps": None},
            "Postgres: refused",
            "bring PostgreSQL back; its values are unknown until then",
            id="store unavailable",
        ),
    ],
)
def test_a_problem_names_what_mends_it(fields: dict[str, Any], problem: str, remedy: str) -> None:
    assert only_problem(report_of(**fields)) == (problem, remedy)


def test_old_incidents_need_no_attention_and_are_shown() -> None:
    report = report_of(
        dead_letters=12,
        newest_dead_letter_at="2026-11-24T11:00:00Z",
        quarantined=3,
        newest_quarantined_at="2026-11-24T11:00:00Z",
        log_changes=[LogChangeStatus("recreated", "an-id", "2026-11-24T11:00:00Z")],
        failed_rebuilds={"acme": failed_rebuild("2026-11-24T11:00:00Z")},
        lost_offsets=5,
    )
    assert report.attention == []
    text = text_of(report)
    assert "dead letters: 12, the newest 2 days ago; quarantined records: 3\n" in text
    assert "the topic was recreated at 2026-11-24T11:00Z (topic id an-id)" in text
    assert "counters lack 0, history lacks 0; 5 were gone before counting" in text


def test_a_rebuild_that_runs_is_the_remedy() -> None:
    report = report_of(
        tenants=[tenant(complete=False, missing=MissingStatus(unproven=True))],
        rebuilds=[running_rebuild()],
    )
    _, remedy = only_problem(report)
    progress = "topic, 24% (120,000 of 500,000 events), 25,000/s, 15 s left"
    assert remedy == f"a rebuild runs: {progress}"
    assert f"rebuild of tenant acme runs: {progress}" in text_of(report)


def test_generations_beside_the_active_one_are_shown() -> None:
    generations = [
        GenerationStatus(
            1,
            "replaced",
            complete=True,
            events=30_000,
            replaced_at="2026-11-26T09:00:00.000Z",
            kept_until="2026-11-27T09:00:00.000Z",
        ),
        GenerationStatus(2, "active", complete=True, events=33_717),
        GenerationStatus(3, "abandoned", complete=False, events=17),
        GenerationStatus(4, "building", complete=False, events=120_000),
    ]
    text = text_of(report_of(tenants=[tenant(generation=2, generations=generations)]))
    shown = text[text.index("other generations") :].splitlines()[1:4]
    assert shown == [
        "tenant acme, generation 1, 30,000 events: replaced 3 h ago, kept until "
        "2026-11-27 09:00 UTC",
        "tenant acme, generation 3, 17 events: left by a rebuild that has ended; a worker "
        "deletes it",
        "tenant acme, generation 4, 120,000 events: being built",
    ]


def test_ten_thousand_tenants_are_a_few_lines() -> None:
    """Those with problems come first, then those with the most events."""
    tenants = [tenant(f"t-{n:05}", events=n) for n in range(10_000)]
    for n in (3, 5):
        tenants[n].last_audit = audit("drift", cells=1)
    text = text_of(report_of(tenants=tenants))
    rows = [line.split()[0] for line in text.splitlines() if line.startswith("t-")]
    assert rows[:4] == ["t-00005", "t-00003", "t-09999", "t-09998"]
    assert len(rows) == TENANTS_MAX
    assert f"and {10_000 - TENANTS_MAX:,} more: `status --json` has all" in text

    for each in tenants:
        each.missing, each.complete = MissingStatus(unproven=True), False
    report = report_of(tenants=tenants)
    assert [len(problem.tenants) for problem in report.attention] == [1, 1, 10_000]
    assert report.attention[2].problem.startswith(
        "10,000 tenants (t-00000, t-00001, t-00002 and 9,997 more): the counters started empty"
    )
    assert len(text_of(report).splitlines()) < 100


def test_a_long_list_of_problems_is_cut() -> None:
    report = report_of(
        tenants=[tenant(f"t-{n}", last_audit=audit("drift", cells=1)) for n in range(3)]
    )
    report.attention = list(report.attention) * PROBLEMS_MAX
    text = text_of(report)
    assert text.startswith(f"needs attention ({3 * PROBLEMS_MAX})")
    assert f"and {2 * PROBLEMS_MAX} more: `status --json` has all" in text


def test_names_of_tenants_are_no_markup() -> None:
    text = text_of(report_of(tenants=[tenant("[red]x[/]", last_audit=audit("drift", cells=2))]))
    assert "tenant [red]x[/]: 2 counts differ" in text


def test_the_document_can_be_printed_as_json() -> None:
    encoded = msgspec.json.encode(broken_report())
    assert msgspec.json.encode(msgspec.json.decode(encoded, type=Status)) == encoded


def test_what_is_unknown_is_no_zero() -> None:
    report = report_of(
        partitions=[], tenants=[], sizes=Sizes(None, None), errors={"redis": "Redis: refused"},
        counter_gaps=None, dead_letters=None,
    )  # fmt: skip
    text = text_of(report)
    assert "? tenants, ? events; Redis ?, history ?\n" in text
    assert "counters lack ?, history lacks 0\ndead letters: ?\n" in text
    assert "no worker" not in text


def test_words() -> None:
    seconds = (0.04, 9.94, 10, 119, 120, 7_199, 7_200, 172_799, 172_800)
    assert [duration(s) for s in seconds] == [
        "0.0 s", "9.9 s", "10 s", "119 s", "2 min", "120 min", "2 h", "48 h", "2 days",
    ]  # fmt: skip
    assert ago(AT, "2026-11-26T13:00:00+01:00") == "0.0 s ago"
    assert ago(AT, "2026-11-26T12:00:09Z") == "0.0 s ago", "clocks differ"
    assert (size(None), size(2**20), size(2**30)) == ("?", "1.0 MiB", "1.0 GiB")
    assert listed(["a", "b", "c", "d"]) == "a, b, c, d"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert (joined([]), joined(["a"]), joined(["a", "b"])) == ("", "a", "a and b")
    assert joined(["a", "b", "c"], shown_max=2) == "a, b and 1 more"
    rebuild = running_rebuild()
    rebuild.total, rebuild.lag, rebuild.eta_s, rebuild.phase = None, 17, None, "catching up"
    assert progress_of(rebuild) == "catching up, 120,000 events, 25,000/s, lag 17"
