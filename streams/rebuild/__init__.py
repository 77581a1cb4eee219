"""Rebuild of counters from the topic, from history, or from both.

`rebuilder` has the entry points. The order of a rebuild: `lease` keeps others away; `prepare` makes
the `plan` (what comes from where, what would be lost), creates the new generation, and writes what
history has (`from_history`); `finish` sums the topic in memory (`from_topic`), reads on to the head
(`follow`), compares a sample with history (`verify`), and swaps. `builder` writes to the new
generation, at the `pace` that live counting allows. `sums`, `identities`, `plan` and `progress` are
pure.
"""

from streams.rebuild.errors import RebuildError
from streams.rebuild.rebuilder import Rebuilder, open_rebuilder, rebuild_inconsistent
from streams.rebuild.results import Failure, Options, RebuildResult, RollbackResult

__all__ = [
    "Failure",
    "Options",
    "RebuildError",
    "RebuildResult",
    "Rebuilder",
    "RollbackResult",
    "open_rebuilder",
    "rebuild_inconsistent",
]
