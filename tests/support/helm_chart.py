"""The Helm chart: rendering it, and finding parts of its manifests."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "deploy/helm/interaction-summary"
RELEASE: Final = "release"
NAMESPACE: Final = "counting"
KUBERNETES: Final = "1.37.0"
CASES: Final = sorted(p.name.removesuffix("-values.yaml") for p in CHART.glob("ci/*-values.yaml"))

Manifest = dict[str, Any]


def run_helm(
    helm: Path, command: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `helm COMMAND` on the chart, without a cluster."""
    common = [command, RELEASE, str(CHART), "--namespace", NAMESPACE]
    if command == "template":
        common += ["--kube-version", KUBERNETES]
    return subprocess.run(
        [str(helm), *common, *arguments],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
    )


class Manifests:
    """The manifests of one rendering."""

    def __init__(self, text: str) -> None:
        self.all: list[Manifest] = [m for m in yaml.safe_load_all(text) if m]

    def kind(self, kind: str) -> list[Manifest]:
        """Return the manifests of a kind."""
        return [m for m in self.all if m["kind"] == kind]

    def named(self, kind: str, name: str) -> Manifest:
        """Return the manifest of a kind and a name without the release's prefix."""
        (found,) = [m for m in self.kind(kind) if m["metadata"]["name"].endswith(name)]
        return found

    @property
    def workloads(self) -> dict[str, Manifest]:
        """Component -> the manifest that has its pod template."""
        found = [m for m in self.all if "template" in m.get("spec", {})]
        return {m["spec"]["template"]["spec"]["containers"][0]["name"]: m for m in found}

    @property
    def pods(self) -> dict[str, Manifest]:
        """Component -> the spec of its pods."""
        return {name: m["spec"]["template"]["spec"] for name, m in self.workloads.items()}

    @property
    def containers(self) -> dict[str, Manifest]:
        """Component -> the only container of its pods."""
        found = {}
        for name, pod in self.pods.items():
            (found[name],) = pod["containers"]
        return found

    def selected(self, selector: Mapping[str, str]) -> set[str]:
        """Return the components whose pods have these labels."""
        return {
            name
            for name, m in self.workloads.items()
            if selector.items() <= m["spec"]["template"]["metadata"]["labels"].items()
        }

    def policies(self, component: str) -> list[Manifest]:
        """Return the network policies that hold for a component."""
        return [
            policy
            for policy in self.kind("NetworkPolicy")
            if component in self.selected(policy["spec"]["podSelector"]["matchLabels"])
        ]


def environment(container: Manifest) -> dict[str, str]:
    """Return the container's variables, as those of its pod with the number 0."""
    fields = {"metadata.namespace": NAMESPACE, "metadata.name": "pod-0"}
    found: dict[str, str] = {}
    for variable in container["env"]:
        if "value" in variable:
            value = variable["value"]
            for name, known in found.items():
                value = value.replace(f"$({name})", known)
        else:
            value = fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        assert variable["name"] not in found
        found[variable["name"]] = value
    return found


def mounted_keys(pod: Manifest) -> list[str]:
    """Return the keys of the Secret that a pod mounts."""
    (volume,) = [v for v in pod["volumes"] if "secret" in v]
    assert all(item["key"] == item["path"] for item in volume["secret"]["items"])
    return [item["key"] for item in volume["secret"]["items"]]
