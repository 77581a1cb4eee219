"""Rebuild of counters from the topic, from history, or from both.

`rebuilder` has the entry points. The order of a rebuild: `lease` keeps others away, `plan` decides
what comes from where and what would be lost, `from_history` writes the sums that SQL made,
`from_topic` sums the topic in memory, `follow` reads on to the head and swaps. `builder` writes to
the new generation, at the `pace` that live counting allows. `sums`, `identities`, `plan` and
`progress` are pure.
"""

from streams.rebuild.errors import RebuildError
from streams.rebuild.rebuilder import (
    Failure,
    Options,
    Rebuilder,
    RebuildResult,
    RollbackResult,
    open_rebuilder,
    rebuild_inconsistent,
)

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
