"""Conversion of the Kafka clients' exceptions into StoreUnavailable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiokafka.errors
import kafka.errors

from store.driver_errors import AMBIGUOUS, is_raised_in
from store.records import AccessRefused, StoreUnavailable


class RecordRefused(Exception):
    """A record can never be sent as it is, however often that is tried; the message says why."""


class InvalidRecordError(aiokafka.errors.BrokerResponseError):  # type: ignore[misc]
    """The broker's answer INVALID_RECORD, for which the client has no error of its own.

    A compacted topic gives it for a record without a key.
    """

    errno = 87
    message = "INVALID_RECORD"
    description = "The broker does not take a record of this kind."


aiokafka.errors.kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)

#: Errors of the broker that are about the records, not about the connection.
_REFUSALS: Final = (
    aiokafka.errors.MessageSizeTooLargeError,
    aiokafka.errors.RecordListTooLargeError,
    aiokafka.errors.CorruptRecordException,
    aiokafka.errors.InvalidTimestampError,
    InvalidRecordError,
    aiokafka.errors.UnsupportedForMessageFormatError,
)
#: Errors of the client that cannot encode a record.
ENCODING_ERRORS: Final = (AssertionError, TypeError, ValueError, OverflowError)


def is_refusal(error: BaseException) -> bool:
    """Return whether a failed send was refused because of the records in it."""
    return isinstance(error, (*_REFUSALS, *ENCODING_ERRORS))


@contextmanager
def kafka_errors(*others: type[Exception], timeout_s: float | None = None) -> Iterator[None]:
    """Raise StoreUnavailable where the block raises an error of a Kafka client or of the network.

    `others` are further exceptions that mean the same. `timeout_s` is the bound that the block
    sets itself with `asyncio.timeout`: the error then names it.
    """
    try:
        yield
    except TimeoutError as error:
        if timeout_s is None:
            raise unavailable(error) from error
        raise StoreUnavailable(f"Kafka: no answer within {timeout_s:g} s") from None
    except (aiokafka.errors.KafkaError, kafka.errors.KafkaError, OSError, *others) as error:
        raise unavailable(error) from error
    except AMBIGUOUS as error:
        if not is_raised_in(error, "aiokafka", "kafka"):
            raise
        raise unavailable(error) from error


def unavailable(error: BaseException) -> StoreUnavailable:
    """Return the StoreUnavailable that says what `error` says, with its type named once.

    It is AccessRefused where the broker says that the user lacks a right.
    """
    name, text = type(error).__name__, str(error).strip()
    if name.endswith("AuthorizationFailedError"):
        # The text of kafka-python is the whole request and its answer.
        return AccessRefused(
            f"Kafka: {name}: the user lacks a right; check the ACLs of the cluster for it"
        )
    if not text or text.startswith(name):  # aiokafka's errors begin with their own name
        return StoreUnavailable(f"Kafka: {text or name}")
    return StoreUnavailable(f"Kafka: {name}: {text}")
