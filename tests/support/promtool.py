"""`python -m tests.support.promtool`: the rules, their tests and the dashboard in promtool itself.

promtool is part of Debian's package `prometheus`. Without it the command fails.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests.support.monitoring import ALERTS, RECORDING, RULE_TESTS, panel_expressions
from tests.support.promql import with_durations


def main() -> int:
    """Run promtool; return its first exit code that is not 0."""
    promtool = shutil.which("promtool")
    if promtool is None:
        sys.stderr.write("promtool is not installed (on Debian: apt install prometheus)\n")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        panels = _panels_as_rules(Path(folder))
        for command in (
            ["check", "rules", ALERTS, RECORDING, panels],
            *(["test", "rules", path] for path in RULE_TESTS),
        ):
            done = subprocess.run([promtool, *map(str, command)], check=False)
            if done.returncode:
                return done.returncode
    return 0


def _panels_as_rules(folder: Path) -> Path:
    """Write the expressions of the dashboard as recording rules, which promtool can check."""
    path = folder / "dashboard.yml"
    rules = [
        {"record": f"panel:{index}", "expr": with_durations(expression.text)}
        for index, expression in enumerate(panel_expressions())
    ]
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    return path


if __name__ == "__main__":
    sys.exit(main())
