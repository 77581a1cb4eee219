"""JSON logs: one object per line on standard error, with the request id if there is one."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from store.api_keys import hide_keys
from store.settings import SECRETS

#: Names of fields that may hold a secret; their values are never logged.
SECRET_NAMES: Final = frozenset(
    {"x-api-key", "authorization", "api_key", "password", "sasl_plain_password", *SECRETS}
)


#: Libraries that log every connection; only their warnings and errors are kept.
_CHATTY: Final = ("aiokafka", "faust", "kafka", "mode", "abc")


def _hide_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name in event:
        if name.lower() in SECRET_NAMES:
            event[name] = "***"
    return event


def _as_json(event: Any, **_: Any) -> str:
    # A key in the wrong place, such as the path of a request, is in no field of a known name.
    return hide_keys(_encoded(event))


def _encoded(event: Any) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=repr).decode()
    except (TypeError, ValueError, UnicodeError, RecursionError):
        # A value that JSON cannot hold (such as a lone surrogate) must not lose the line.
        return msgspec.json.encode({_text(k): _text(v) for k, v in event.items()}).decode()


def _text(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


def configure(level: str) -> None:
    """Send our logs and those of the libraries to standard error, from `level` (`INFO`…) up."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    finish: list[Processor] = [
        structlog.processors.format_exc_info,
        _hide_secrets,
        structlog.processors.JSONRenderer(serializer=_as_json),
    ]
    threshold = logging.getLevelNamesMapping()[level]
    structlog.configure(
        processors=[*shared, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
        )
    )
    logging.basicConfig(level=threshold, handlers=[handler], force=True)
    for library in _CHATTY:
        logging.getLogger(library).setLevel(max(threshold, logging.WARNING))


def get_logger(part: str) -> structlog.typing.FilteringBoundLogger:
    """Return a logger whose lines carry `part` (`api`, `worker`…).

    Safe to call before `configure`.
    """
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(part=part)
    return logger
