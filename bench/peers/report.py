"""The table of results, and the page docs/benchmarks.md. Pure."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from bench.peers.abilities import ABILITIES, EXPLAINED, Ability, Answer, Evidence, lacks
from bench.peers.measuring import BROKER, Measured
from bench.peers.runs import Outcome
from bench.peers.systems import SYSTEMS

WIDTH = 110
HEADER = (
    "system",
    "events/s",
    "second half",
    "until durable",
    "µs/event",
    "of which",
    "broker, µs/event",
    "memory, MB",
    "cells right",
    "cells wrong",
    "cannot do",
)


class Run(NamedTuple):
    """One run of a system, or its failure."""

    system: str
    round_number: int
    at_rest: bool
    """Whether the machine was at rest before it."""
    speed: float
    """Million additions a second of one process of Python, before it."""
    outcome: Outcome | None
    error: str = ""


class Context(NamedTuple):
    """What the page says beside the results."""

    date: str
    machine: str
    command: str
    commit: str
    stores: str
    versions: Mapping[str, str]
    events: int
    distinct: int
    customers: int
    rounds: int
    foreign_max: float
    """A run during which other processes took more than this percentage counts as disturbed."""
    minutes: float


def quiet(runs: Sequence[Run], foreign_max: float) -> list[Run]:
    """Return the runs without foreign load; all that succeeded if each had some."""
    done = [run for run in runs if run.outcome is not None]
    return [run for run in done if not is_disturbed(run, foreign_max)] or done


def is_disturbed(run: Run, foreign_max: float) -> bool:
    """Return whether other processes took part of the machine during a run."""
    return foreign_load(run) > foreign_max


def foreign_load(run: Run) -> float:
    """Return the load of other processes, or of other virtual machines, in percent."""
    assert run.outcome is not None
    return max(run.outcome.measured.foreign_percent, run.outcome.measured.stolen_percent)


def table(runs: Sequence[Run], foreign_max: float) -> str:
    """Return the table: medians of each system's quiet runs, the fastest first."""
    by_system: dict[str, list[Run]] = {}
    for run in runs:
        by_system.setdefault(run.system, []).append(run)
    rows = [_row(name, of, quiet(of, foreign_max)) for name, of in by_system.items()]
    rows.sort(key=lambda row: -row[0])
    lines = [_line(HEADER), _line(["---"] * len(HEADER))]
    return "\n".join([*lines, *(_line(row) for _, row in rows)])


def _line(columns: Sequence[str]) -> str:
    return f"| {' | '.join(columns)} |"


def _row(name: str, runs: Sequence[Run], chosen: Sequence[Run]) -> tuple[float, list[str]]:
    """Return the rate to sort by, and the columns: cells of all runs, the rest of `chosen` ones."""
    cannot = ", ".join(lacks(name)) or "—"
    title = f"{SYSTEMS[name].title} (`{name}`)"
    outcomes = [run.outcome for run in chosen if run.outcome is not None]
    if not outcomes:
        return 0.0, [title, "failed", *["—"] * (len(HEADER) - 3), cannot]
    rates = sorted(outcome.measured.events_s for outcome in outcomes)
    rate = statistics.median(rates)
    shown = f"**{rate:,.0f}**"
    if len(rates) > 1:
        shown += f" ({rates[0]:,.0f} to {rates[-1]:,.0f})"
    half = _median(outcomes, lambda measured: measured.second_half_s)
    stored = _median(outcomes, lambda measured: measured.stored_s)
    spent = {
        process: _median(outcomes, lambda measured, name=process: measured.cpu_us[name])  # type: ignore[misc]
        for process in outcomes[0].measured.cpu_us
    }
    parts = ", ".join(f"{process} {us:.1f}" for process, us in spent.items() if process != BROKER)
    return rate, [
        title,
        shown,
        f"{half:,.0f}" if half else "—",
        f"{stored:,.0f}" if stored else "—",
        f"**{_median(outcomes, lambda measured: measured.total_us):.1f}**",
        parts,
        f"{spent[BROKER]:.1f}",
        f"{_median(outcomes, lambda measured: measured.total_mb):,.0f}",
        *_cells([run.outcome for run in runs if run.outcome is not None]),
        cannot,
    ]


def _median(outcomes: Sequence[Outcome], value: Callable[[Measured], float]) -> float:
    return statistics.median(value(outcome.measured) for outcome in outcomes)


def _cells(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """Return the cells right and wrong of the worst run."""
    compared = [outcome.cells for outcome in outcomes if outcome.cells is not None]
    if not compared:
        return "not compared", "not compared"
    return f"{min(c.right for c in compared):,}", f"{max(c.wrong for c in compared):,}"


def unexpected(runs: Sequence[Run]) -> list[str]:
    """Return one line for each run that failed, or has wrong cells though it has identities."""
    lines = []
    for run in runs:
        about = f"{run.system}, round {run.round_number}"
        if run.outcome is None:
            lines.append(f"{about}: {run.error}")
        elif (cells := run.outcome.cells) and cells.wrong and _knows_copies(run.system):
            lines.append(f"{about}: {cells.wrong} wrong cells")
    return lines


def _knows_copies(name: str) -> bool:
    return ABILITIES[name][Ability.COPIES].can


def disturbances(runs: Sequence[Run], foreign_max: float) -> list[str]:
    """Return one line for each system that failed, was disturbed, or did not start at rest."""
    lines = []
    for name in dict.fromkeys(run.system for run in runs):
        of = [run for run in runs if run.system == name]
        done = [run for run in of if run.outcome is not None]
        notes = [f"round {run.round_number} failed: {run.error}" for run in of if run.error]
        loads = [foreign_load(run) for run in done if is_disturbed(run, foreign_max)]
        if loads and len(loads) == len(done):
            notes.append(f"no quiet run; foreign load {_span(loads)} of one processor")
        elif loads:
            notes.append(f"{len(loads)} of {len(done)} runs left out for foreign load")
        if busy := sum(not run.at_rest for run in done):
            notes.append(f"the machine was not at rest before {busy} of {len(done)} runs")
        if notes:
            lines.append(f"`{name}`: {'; '.join(notes)}")
    return lines


def _span(loads: Sequence[float]) -> str:
    if round(min(loads)) == round(max(loads)):
        return f"{loads[0]:.0f}%"
    return f"{min(loads):.0f} to {max(loads):.0f}%"


# --- the page -------------------------------------------------------------------------------------


def page(runs: Sequence[Run], context: Context) -> str:
    """Return docs/benchmarks.md."""
    disturbed = disturbances(runs, context.foreign_max)
    speeds = [run.speed for run in runs]
    parts = [
        "# Benchmarks beside other systems",
        "<!-- Written by `make bench` (bench/peers/report.py); do not edit. -->",
        _paragraph(
            "This page compares Interaction Summary with other systems that could count the same"
            " events. Each reads the same topic of one Apache Kafka, one system at a time on the"
            " same machine, and its counts are compared with an oracle. The page is written by"
            " the run."
        ),
        "\n".join(
            [
                f"- Date: {context.date}; {context.minutes:.0f} minutes",
                f"- Machine: {context.machine}. The systems, their stores and the broker share it",
                f"- Command: `{context.command}`",
                f"- Our version: commit {context.commit}",
                f"- Rounds: {context.rounds}",
            ]
        ),
        "## Results",
        table(runs, context.foreign_max),
        _paragraph(
            "Medians of the rounds, lowest and highest in parentheses. *Second half* is the rate of"
            " the second half of the events, when Java has compiled its hot code. *Until durable*"
            " is the rate until the results are committed too: history stored in PostgreSQL (ours),"
            " or transactions committed (Kafka Streams, PostgreSQL); the others report no such"
            " moment. *µs/event* is processor time of all processes of the system but the broker."
            " *Cells* are compared in each run; the worst is shown."
        ),
        "## Load of the machine",
        _paragraph(
            f"One process of Python did {min(speeds):.1f} to {max(speeds):.1f} million additions a"
            " second before the runs. "
            + (
                "Runs that were disturbed by other processes"
                f" (over {context.foreign_max:.0f}% of one processor), or failed:"
                if disturbed
                else "The machine was at rest before each run, and no run was disturbed."
            )
        ),
        *(["\n".join(f"- {line}" for line in disturbed)] if disturbed else []),
        "## What each system does",
        _paragraph(
            "A rate means little without what it is for. *run*: the cells of this run show it;"
            " *tests*: tests of this project show it; *program*: the program here is built so;"
            " *tried*: by hand, with the version below; *docs*: from its documentation, not tried"
            " here."
        ),
        _matrix(runs),
        "\n".join(f"- *{ability.value}*: {EXPLAINED[ability]}" for ability in Ability),
        "Why not:",
        _reasons(list(dict.fromkeys(run.system for run in runs))),
        "## Method",
        _method(context),
        "## Where we lose",
        _losses(runs, context.foreign_max),
        "## Versions",
        "\n".join(f"- {name} {version}" for name, version in context.versions.items()),
        f"Redis and PostgreSQL: {context.stores}.",
    ]
    return "\n\n".join(parts) + "\n"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


_SHORT = {
    Evidence.RUN: "run",
    Evidence.TESTS: "tests",
    Evidence.PROGRAM: "program",
    Evidence.TRIED: "tried",
    Evidence.DOCS: "docs",
}


def _matrix(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(run.system for run in runs))
    wrong = {name: _wrong_cells(runs, name) for name in names}
    lines = [_line(["", *(f"`{name}`" for name in names)]), _line(["---"] * (len(names) + 1))]
    for ability in Ability:
        shown = [_shown(ABILITIES[name][ability], wrong[name]) for name in names]
        lines.append(_line([ability.value, *shown]))
    return "\n".join(lines)


def _shown(answer: Answer, wrong: int) -> str:
    if answer.can and answer.evidence is Evidence.RUN and wrong:
        return f"**not shown** ({wrong:,} wrong cells)"
    return f"{'yes' if answer.can else '**no**'} ({_SHORT[answer.evidence]})"


def _wrong_cells(runs: Sequence[Run], name: str) -> int:
    """Return the most wrong cells of any run of a system, disturbed ones included."""
    outcomes = [run.outcome for run in runs if run.system == name and run.outcome is not None]
    return max((outcome.cells.wrong for outcome in outcomes if outcome.cells), default=0)


def _reasons(names: Sequence[str]) -> str:
    """Return one line for each system that cannot do something."""
    lines = []
    for name in names:
        answers = ABILITIES[name]
        no = [f"{a.value}: {answers[a].reason}" for a in Ability if not answers[a].can]
        if no:
            lines.append(f"- `{name}`: {'; '.join(no)}.")
    return "\n".join(lines)


def _method(context: Context) -> str:
    copies = context.events - context.distinct
    lines = [
        f"The log has {context.events:,} records of one tenant in 4 partitions:"
        f" {context.distinct:,} events and {copies:,} exact copies. {context.customers:,} customers"
        " and 200 actions follow Zipf's law. 90% of the events are of today, the others of the 40"
        " days before.",
        "Time runs from the first event that a system reads (ours: from the first events that it"
        " has counted) to the last one that it has counted. Start and group join are left out."
        " Pathway takes a backlog in one step, so its time includes its start. The stock agent is"
        " measured for 30 s.",
        "Processor time is user and system time of all processes of a system, read from /proc at"
        " the same moments. Memory is the proportional set size at the end; Java reserves up to"
        " 3 GB and uses it.",
        "Cells are the counts of all actions, treatments and channels and of 200 customers, in four"
        " windows, with distinct actions and numbers of groups. Ours are read by HTTP.",
        "Before a run the bench waits for the machine to be at rest (under 8% of one processor for"
        " 2 s). Processor time of all other processes is measured during a run; a run with too much"
        " of it is left out if the system has another.",
        "The other systems were written for this bench, to do the same with the least work, and"
        " not by their makers. A reader who knows one better may make it faster.",
    ]
    return "\n".join(
        textwrap.fill(
            line,
            WIDTH,
            initial_indent="- ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines
    )


def _losses(runs: Sequence[Run], foreign_max: float) -> str:
    """Return the systems that were faster, or used less processor time, than ours with 1 worker."""
    figures: dict[str, tuple[float, float, float]] = {}
    for name in dict.fromkeys(run.system for run in runs):
        of = [r for r in runs if r.system == name]
        outcomes = [run.outcome for run in quiet(of, foreign_max) if run.outcome is not None]
        if outcomes:
            figures[name] = (
                _median(outcomes, lambda measured: measured.events_s),
                _median(outcomes, lambda measured: measured.total_us),
                _median(outcomes, lambda measured: measured.total_mb),
            )
    ours = figures.pop("ours-1", None)
    if ours is None:
        return "Not compared: `ours-1` was not measured."
    others = {name: of for name, of in figures.items() if not name.startswith("ours-")}
    lines = [
        f"- Events per second (`ours-1`: {ours[0]:,.0f}): "
        + _joined(
            f"`{name}` {of[0] / ours[0]:.1f}×" for name, of in others.items() if of[0] > ours[0]
        ),
        f"- Processor time per event (`ours-1`: {ours[1]:.1f} µs): "
        + _joined(f"`{name}` {of[1]:.1f} µs" for name, of in others.items() if of[1] < ours[1]),
        f"- Memory (`ours-1`: {ours[2]:,.0f} MB): "
        + _joined(f"`{name}` {of[2]:,.0f} MB" for name, of in others.items() if of[2] < ours[2]),
    ]
    reasons = _paragraph(
        "One worker writes each event into two stores, Redis for reads and PostgreSQL for history,"
        " and keeps windows ready at each commit. A system that leaves the sums to the"
        " reader, or keeps no history, has less to do, and one that counts within its process has"
        " no round trips. Where one process is enough and counts are read by SQL now and then,"
        " PostgreSQL or ClickHouse alone does it with less."
    )
    return "\n\n".join(["Systems that are ahead of one worker of ours:", "\n".join(lines), reasons])


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(parts) or "none"
