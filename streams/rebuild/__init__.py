"""Rebuild of counters from the topic, from history, or from both.

`rebuilder` has the entry points. The order of a rebuild: `lease` keeps others away; `prepare` makes
the `plan` (what comes from where, what would be lost), creates the new generation, and writes what
history has (`from_history`); `finish` sums the topic in memory (`from_topic`), reads on to the head
(`follow`), compares a sample with history (`verify`), and swaps. `builder` writes to the new
generation, at the `pace` that live counting allows; `owned` finds the copies that the active
generation has not counted. A rebuild `since` a day copies the days before
from the active generation (`takeover`; `base` is what it takes of one group), and decides about
records that were counted meanwhile (`late`). `sums`, `identities`, `plan`, `since`, `base`, `late`
and `progress` are pure.
"""

from streams.rebuild.errors import RebuildError
from streams.rebuild.rebuilder import Rebuilder, open_rebuilder, rebuild_inconsistent
from streams.rebuild.results import Failure, Options, RebuildResult, RollbackResult
from streams.rebuild.since import Since, parse_since

__all__ = [
    "Failure",
    "Options",
    "RebuildError",
    "RebuildResult",
    "Rebuilder",
    "RollbackResult",
    "Since",
    "open_rebuilder",
    "parse_since",
    "rebuild_inconsistent",
]
