"""What each system can do of the work of this project, and what it cannot, as built here.

Speed is comparable only beside this list: a system that keeps no identities has less to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from bench.peers.systems import SYSTEMS


class Ability(Enum):
    """One part of the work: its short name in the tables."""

    COPIES = "copies count once"
    OTHER_KEY = "copies under another key"
    HORIZON = "dedup horizon"
    LATE = "late events"
    WINDOWS = "rolling windows kept ready"
    RANKS = "ranked pages"
    DISTINCT = "distinct actions of a customer"
    RESTART = "exact after a restart"
    LIVE = "reads while it counts"
    HTTP = "reads by HTTP"
    HISTORY = "history of events"
    PROCESSES = "several processes"


EXPLAINED: Mapping[Ability, str] = {
    Ability.COPIES: "An event that a producer sends again counts once.",
    Ability.OTHER_KEY: "The same if the copy has another record key, so another partition.",
    Ability.HORIZON: "Identities are forgotten after a set time, so their number is bounded.",
    Ability.LATE: "An event counts on the day it happened, up to 40 days ago here.",
    Ability.WINDOWS: "1, 7 and 31 days up to today are ready sums, in the tenant's time zone. A"
    " no: the reader adds up days.",
    Ability.RANKS: "The groups of a grouping in the order of their events, by pages, without"
    " sorting all at each read. Ours ranks customers by day, week and month once somebody asks:"
    " here after the events are counted, as the other systems have no ranks.",
    Ability.DISTINCT: "The number of different actions of a customer in each window.",
    Ability.RESTART: "After a crash at any moment no event is lost or counted twice.",
    Ability.LIVE: "Counts can be read while events arrive.",
    Ability.HTTP: "An HTTP endpoint answers, without a server that you write.",
    Ability.HISTORY: "Each event is stored, for audits and to rebuild counts without the topic.",
    Ability.PROCESSES: "A second process takes a part of the work.",
}


class Evidence(Enum):
    """How an answer is known."""

    RUN = "this run"
    TESTS = "tests of this project"
    PROGRAM = "its program here"
    TRIED = "tried by hand, with the version of its requirements"
    DOCS = "its documentation, not tried here"


class Answer(NamedTuple):
    """Whether a system has an ability, and how that is known."""

    can: bool
    evidence: Evidence
    reason: str = ""
    """Why not; empty if it can."""


#: What the cells of a run can show.
SHOWN_BY_CELLS = (Ability.COPIES, Ability.LATE, Ability.DISTINCT)

_RUN = Answer(True, Evidence.RUN)
_TESTS = Answer(True, Evidence.TESTS)
_PROGRAM = Answer(True, Evidence.PROGRAM)
_DOCS = Answer(True, Evidence.DOCS)

Answers = Mapping[Ability, Answer]


def _no(reason: str, evidence: Evidence = Evidence.PROGRAM) -> Answer:
    return Answer(False, evidence, reason)


_CELLS: Answers = dict.fromkeys(SHOWN_BY_CELLS, _RUN)
_NOT_BUILT: Answers = {
    Ability.OTHER_KEY: _no("identities are kept by customer, in one partition"),
    Ability.WINDOWS: _no("counts by day; the reader adds them up"),
    Ability.RANKS: _no("none are kept"),
    Ability.HTTP: _no("no server"),
    Ability.HISTORY: _no("the topic only"),
}

OURS: Answers = {
    **dict.fromkeys(Ability, _TESTS),
    **_CELLS,
    Ability.HTTP: _RUN,
}
KAFKA_STREAMS: Answers = {
    **_NOT_BUILT,
    **_CELLS,
    Ability.HORIZON: _no(
        "all identities are kept; window stores with a retention exist, by its documentation"
    ),
    Ability.RESTART: _DOCS,
    Ability.LIVE: _DOCS,
    Ability.HTTP: _no(
        "queries within the process; a server, and the way to the right instance, are yours to"
        " write",
        Evidence.DOCS,
    ),
    Ability.PROCESSES: _DOCS,
}
KAFKA_STREAMS_AT_LEAST_ONCE: Answers = {
    **KAFKA_STREAMS,
    Ability.RESTART: _no("at least once: counts since the last commit repeat", Evidence.DOCS),
}
FLINK: Answers = {
    **_NOT_BUILT,
    **_CELLS,
    Ability.HORIZON: _no("all identities are kept; state with a TTL exists, by its documentation"),
    Ability.RESTART: _DOCS,
    Ability.LIVE: _no("keys emit their state at the end of the input; a sink is yours to choose"),
    Ability.HTTP: _no(
        "queryable state is deprecated since 1.18; results go to a store of yours", Evidence.DOCS
    ),
    Ability.PROCESSES: _DOCS,
}
POSTGRES: Answers = {
    **_NOT_BUILT,
    **_CELLS,
    Ability.OTHER_KEY: _PROGRAM,
    Ability.HORIZON: _no("identities are kept for all time, as the key of the history"),
    Ability.RANKS: _no("none are kept; each query sorts"),
    Ability.RESTART: _PROGRAM,
    Ability.LIVE: _PROGRAM,
    Ability.HTTP: _no("SQL only"),
    Ability.HISTORY: _PROGRAM,
    Ability.PROCESSES: _no("writers would wait for each other's rows of counts"),
}
CHDB: Answers = {
    **_NOT_BUILT,
    **_CELLS,
    Ability.OTHER_KEY: _PROGRAM,
    Ability.HORIZON: _no("all identities are kept, in memory"),
    Ability.RANKS: _no("none are kept; each query sorts"),
    Ability.RESTART: _no("events, identities and offsets do not change in one transaction"),
    Ability.LIVE: _no("only within the process that inserts", Evidence.TRIED),
    Ability.HTTP: _no("a library in the process", Evidence.DOCS),
    Ability.HISTORY: _PROGRAM,
    Ability.PROCESSES: _no("a second process cannot open the folder", Evidence.TRIED),
}
CHDB_PLAIN: Answers = {
    **CHDB,
    Ability.COPIES: _no("no identities"),
    Ability.OTHER_KEY: _no("no identities"),
    Ability.HORIZON: _no("no identities"),
}
CHDB_RAW: Answers = {
    **CHDB,
    Ability.HORIZON: _no("identities are compared by each query, over all events"),
}
STOCK_FAUST: Answers = {
    **_NOT_BUILT,
    Ability.COPIES: _no("no identities"),
    Ability.OTHER_KEY: _no("no identities"),
    Ability.HORIZON: _no("no identities"),
    Ability.LATE: _PROGRAM,
    Ability.WINDOWS: _no("weeks and months of the calendar"),
    Ability.DISTINCT: _no("not counted"),
    Ability.RESTART: _no("events since the last commit of offsets count again"),
    Ability.LIVE: _PROGRAM,
    Ability.PROCESSES: _DOCS,
}
BYTEWAX: Answers = {
    **_NOT_BUILT,
    **_CELLS,
    Ability.HORIZON: _no("all identities are kept"),
    Ability.RESTART: _DOCS,
    Ability.LIVE: _no("keys emit their state at the end of the input"),
    Ability.PROCESSES: _DOCS,
}
PATHWAY: Answers = {
    **_NOT_BUILT,
    **_CELLS,
    Ability.OTHER_KEY: _PROGRAM,
    Ability.HORIZON: _no("all identities are kept"),
    Ability.RESTART: _no("persistence is not set up; it exists, by its documentation"),
    Ability.LIVE: _DOCS,
    Ability.HTTP: _no("not built; it has an HTTP connector, by its documentation"),
    Ability.PROCESSES: _DOCS,
}

ABILITIES: Mapping[str, Answers] = {
    **{name: OURS for name in SYSTEMS if name.startswith("ours-")},
    "ours-2": {**OURS, Ability.PROCESSES: _RUN},
    "ours-1-no-dedup": {
        **OURS,
        Ability.COPIES: _no("switched off", Evidence.RUN),
        Ability.OTHER_KEY: _no("switched off", Evidence.RUN),
    },
    "kafka-streams-eos": KAFKA_STREAMS,
    "kafka-streams-local-eos": KAFKA_STREAMS,
    "kafka-streams-at-least-once": KAFKA_STREAMS_AT_LEAST_ONCE,
    "kafka-streams-local-at-least-once": KAFKA_STREAMS_AT_LEAST_ONCE,
    "pg-upsert": POSTGRES,
    "flink-rocksdb": FLINK,
    "flink-heap": FLINK,
    "chdb-dedup": CHDB,
    "chdb-plain": CHDB_PLAIN,
    "chdb-raw": CHDB_RAW,
    "stock-faust": STOCK_FAUST,
    "bytewax": BYTEWAX,
    "pathway": PATHWAY,
}


def lacks(name: str) -> list[str]:
    """Return the short names of what a system cannot do."""
    return [ability.value for ability in Ability if not ABILITIES[name][ability].can]
