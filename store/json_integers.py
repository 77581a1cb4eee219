"""JSON whose whole numbers may have a fraction of zero: `5.0` is an integer, says JSON Schema.

Some languages write whole numbers of a floating-point type so. msgspec refuses them.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def decode_json(data: bytes | str, model: type[T]) -> T:
    """Return the document in `data` as `model`.

    Raises msgspec.DecodeError, with msgspec.ValidationError, UnicodeDecodeError and RecursionError.
    """
    try:
        return msgspec.json.decode(data, type=model)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
    return msgspec.convert(_whole(msgspec.json.decode(data)), model)


def _whole(value: Any) -> Any:
    """Return the value with every float that is a whole number as an int."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    return value
