"""Errors that a driver raises by mistake: its server was in a state that it does not expect."""

from __future__ import annotations

from typing import Final

#: What a driver's own bug looks like. A redis-py cluster client, for instance, raises
#: AttributeError when a slot moves to a node that it does not know yet, and RuntimeError when it
#: writes to a connection that was closed while it learned the nodes.
AMBIGUOUS: Final = (AttributeError, TypeError, LookupError, AssertionError, RuntimeError)
#: The event loop, which raises where a driver uses a connection that is closed.
_LOOP: Final = "uvloop"


def is_raised_in(error: BaseException, *packages: str) -> bool:
    """Return whether the error was raised by code of one of the top-level `packages`, or by uvloop.

    An error of our own code, or in what we pass to a driver as a callback, is not.
    """
    traceback = error.__traceback__
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = str(traceback.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in (_LOOP, *packages)
