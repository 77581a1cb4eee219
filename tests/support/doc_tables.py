"""Tables of the documentation, and the Helm chart's list of settings, generated from the code.

`python -m tests.support.doc_tables` writes them; a test compares them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import typer.main

from api.group_params import PATH_PARAMETERS, TREND_PARAMETERS
from api.params import PARAMETERS, Integer, Parameter
from cli.main import app as cli_app
from store.metrics import METRICS
from store.records import GROUPINGS
from store.settings import Settings
from store.summary import POINT_FIELDS, ROW_FIELDS, RowField

ROOT: Final = Path(__file__).resolve().parents[2]


def settings_table() -> str:
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = str(field.default)
        if isinstance(field.default, bool):
            default = default.lower()
        shown = f"`{default}`" if default else "empty"
        assert field.description, name
        lines.append(f"| `{name.upper()}` | {shown} | {_cell(field.description)} |")
    return "\n".join(lines)


def setting_names() -> str:
    return "\n".join(name.upper() for name in Settings.model_fields)


def metrics_table() -> str:
    lines = ["| metric | type, labels | meaning | what to do |", "|---|---|---|---|"]
    for name, metric in METRICS.items():
        labels = ", ".join((metric.type, *(f"`{label}`" for label in metric.labels)))
        lines.append(f"| `{name}` | {labels} | {_cell(metric.meaning)} | {_cell(metric.remedy)} |")
    return "\n".join(lines)


def commands_table() -> str:
    lines = ["| command | does |", "|---|---|"]
    for name, command in commands().items():
        words = [name, *(_parameter(p) for p in command.params if p.name != "help")]
        lines.append(f"| `{' '.join(words)}` | {_cell(_first_sentence(command))} |")
    return "\n".join(lines)


def commands() -> dict[str, Any]:
    """Return the commands: words typed after `interaction-summary` -> click's command."""
    found: dict[str, Any] = {}
    group: Any = typer.main.get_command(cli_app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= {f"{name} {sub}": inner for sub, inner in command.commands.items()}
        else:
            found[name] = command
    return found


def _parameter(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        metavar = str(parameter.metavar or parameter.name.upper())
        return metavar if parameter.required or metavar.startswith("[") else f"[{metavar}]"
    flag = parameter.opts[-1]
    shown = flag if parameter.is_flag else f"{flag} {parameter.metavar or _value(flag)}"
    return shown if parameter.required else f"[{shown}]"


def _value(flag: str) -> str:
    return flag.removeprefix("--").rpartition("-")[2].upper()


def _first_sentence(command: Any) -> str:
    text = inspect.cleandoc(command.help).split("\n\n")[0].replace("\n", " ")
    return text.removesuffix(".")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _parameters_table(parameters: Sequence[Parameter]) -> str:
    lines = ["| parameter | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for p in parameters:
        kind = "integer" if isinstance(p, Integer) else "string"
        default = "none" if p.default is None else f"`{p.default}`"
        lines.append(f"| `{p.name}` | {kind} | {default} | {p.rule} | {p.description} |")
    return "\n".join(lines)


def _fields_table(fields: Sequence[RowField]) -> list[str]:
    lines = ["| field | type | meaning |", "|---|---|---|"]
    for field in fields:
        kind = f"{field.type} or null" if field.nullable else field.type
        lines.append(f"| `{field.name}` | {kind} | {field.description} |")
    return lines


def rows_tables() -> str:
    parts = []
    for group_by in GROUPINGS:
        parts.append("\n".join([f"### {group_by}", "", *_fields_table(ROW_FIELDS[group_by])]))
    return "\n\n".join(parts)


#: (page, mark) -> the table between `<!-- mark -->` and `<!-- /mark -->`.
TABLES: Final[dict[tuple[Path, str], Callable[[], str]]] = {
    (ROOT / "README.md", "settings"): settings_table,
    (ROOT / "docs/commands.md", "commands"): commands_table,
    (ROOT / "docs/operations.md", "metrics"): metrics_table,
    (ROOT / "docs/api.md", "parameters"): partial(_parameters_table, PARAMETERS),
    (ROOT / "docs/api.md", "group-parameters"): partial(_parameters_table, PATH_PARAMETERS),
    (ROOT / "docs/api.md", "trend-parameters"): partial(_parameters_table, TREND_PARAMETERS),
    (ROOT / "docs/rows.md", "rows"): rows_tables,
    (ROOT / "docs/rows.md", "points"): lambda: "\n".join(_fields_table(POINT_FIELDS)),
    (
        ROOT / "deploy/helm/interaction-summary/templates/_settings.tpl",
        "setting-names",
    ): setting_names,
}


def find_table(text: str, mark: str) -> re.Match[str]:
    """Return the match of a table; its second group is the table itself."""
    found = re.search(f"(<!-- {mark} -->\n)(.*?)(\n?<!-- /{mark} -->)", text, re.DOTALL)
    assert found is not None, f"no <!-- {mark} --> … <!-- /{mark} -->"
    return found


def write_tables() -> None:
    """Write all tables into their pages."""
    for (path, mark), table in TABLES.items():
        text = path.read_text()
        found = find_table(text, mark)
        end = f"\n<!-- /{mark} -->"
        path.write_text(text[: found.start(2)] + table() + end + text[found.end(3) :])


if __name__ == "__main__":
    write_tables()
