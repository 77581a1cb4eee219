"""Secret settings given as files: `API_KEY_PEPPER_FILE=/run/secrets/pepper` and the like.

A secret in a file does not show in the environment of the process, in `docker inspect` or in a
shell's history.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

SUFFIX: Final = "_FILE"
#: No setting is as long; a larger file is the wrong file.
_BYTES_MAX: Final = 65_536


class SecretFileError(ValueError):
    """A file that should hold a setting cannot be read. The message names the variable."""


class SecretFiles(PydanticBaseSettingsSource):
    """Source of settings that reads `NAME` from the file that the variable `NAME_FILE` names.

    One line break at the end of the file is not part of the value, as editors and `echo` add one.
    """

    def __init__(self, settings: type[BaseSettings], names: Iterable[str]) -> None:
        super().__init__(settings)
        self._names = frozenset(names)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value from the file, the field's name, and False: it is not JSON."""
        return (_read(field_name.upper()) if field_name in self._names else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return field -> value of the fields whose variable with `_FILE` is set."""
        found = ((name, _read(name.upper())) for name in sorted(self._names))
        return {name: value for name, value in found if value is not None}


def _read(variable: str) -> str | None:
    path = os.environ.get(variable + SUFFIX, "")
    if not path:
        return None
    if os.environ.get(variable, ""):
        raise SecretFileError(f"{variable} and {variable}{SUFFIX} are both set; set one of them")
    try:
        with Path(path).open("rb") as file:
            content = file.read(_BYTES_MAX + 1)
        if len(content) > _BYTES_MAX:
            raise SecretFileError(f"{variable}{SUFFIX}={path}: over {_BYTES_MAX} bytes")
        text = content.decode()
    except OSError as error:
        raise SecretFileError(f"{variable}{SUFFIX}={path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SecretFileError(f"{variable}{SUFFIX}={path}: not UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")
