"""Write the JSON schemas with which `.ci/helm` checks the chart's manifests.

`helm_schemas.py FOLDER`: FOLDER/1.30 and so on get one file for each kind, named as kubeconform
looks for it. Kubernetes' own come from the package kubernetes-validate, those of KEDA and of the
Prometheus operator from models that cloudcoil has generated from their CRDs. All forbid unknown
fields.
"""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as monitoring

#: The oldest version that Chart.yaml allows, and the newest that has schemas.
VERSIONS = ("1.30", "1.37")
KINDS = (
    "deployment-apps-v1",
    "horizontalpodautoscaler-autoscaling-v2",
    "ingress-networking-v1",
    "job-batch-v1",
    "networkpolicy-networking-v1",
    "poddisruptionbudget-policy-v1",
    "service-v1",
    "serviceaccount-v1",
    "statefulset-apps-v1",
)
CUSTOM: dict[str, Any] = {
    "scaledobject-keda-v1alpha1": keda.ScaledObject,
    "triggerauthentication-keda-v1alpha1": keda.TriggerAuthentication,
    "servicemonitor-monitoring-v1": monitoring.ServiceMonitor,
    "prometheusrule-monitoring-v1": monitoring.PrometheusRule,
}
DEFINITION = "/api/_definitions.json#/$defs/"


def main(folder: Path) -> None:
    """Write the schemas of all versions into `folder`."""
    custom = {name: strict(model.model_json_schema()) for name, model in CUSTOM.items()}
    for version in VERSIONS:
        source = files("kubernetes_validate").joinpath(
            f"kubernetes-json-schema/v{version}.0-local-strict"
        )
        definitions = json.loads(source.joinpath("_definitions.json").read_text())["$defs"]
        target = folder / version
        target.mkdir(parents=True, exist_ok=True)
        for name in KINDS:
            schema = bundle(json.loads(source.joinpath(f"{name}.json").read_text()), definitions)
            (target / f"{name}.json").write_text(json.dumps(schema))
        for name, schema in custom.items():
            (target / f"{name}.json").write_text(json.dumps(schema))


def bundle(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with all definitions that it refers to: kubeconform loads one file."""
    found: dict[str, Any] = {}

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        if isinstance(reference := node.get("$ref"), str):
            name = reference.removeprefix(DEFINITION).removeprefix("#/$defs/")
            if name not in found:
                found[name] = None  # it may refer to itself
                found[name] = resolve(definitions[name])
            return {"$ref": f"#/$defs/{name}"}
        return {key: resolve(value) for key, value in node.items()}

    return resolve(schema) | {"$defs": found}


def strict(schema: Any) -> Any:
    """Return the schema of a model, with unknown fields forbidden and kind and version required."""
    for part in (schema, *schema["$defs"].values()):
        if "properties" in part:
            part.setdefault("additionalProperties", False)
    schema["required"] = sorted({"apiVersion", "kind", "metadata", *schema["required"]})
    return schema


if __name__ == "__main__":
    main(Path(sys.argv[1]))
