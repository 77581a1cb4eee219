"""The manifests of each `ci/*-values.yaml`, compared with the program that they run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from api.page_routes import FILES_PATH
from api.server import DRAIN_TIMEOUT_S
from store.settings import Settings
from streams.endpoints import LOOP_TIMEOUT_S
from streams.faust_app import STOP_MAX_S
from tests.support.helm_chart import CASES, ROOT, Manifests, environment, mounted_keys

Render = Callable[[str], Manifests]
COMPONENTS = {"worker", "api", "migrate"}
RULES = ("alerts.yml", "recording.yml")
SECRETS_DIR = "/etc/interaction-summary/secrets"
SECRETS = {
    "DATABASE_URL": "postgresql://user:password@postgres.stores:5432/counting",
    "REDIS_URL": "redis://:password@redis.stores:6379/0",
    "API_KEY_PEPPER": "0123456789abcdef0123456789abcdef",
    "API_KEY_PEPPER_PREVIOUS": "fedcba9876543210fedcba9876543210",
    "KAFKA_SASL_PASSWORD": "password",
}


@pytest.fixture(params=CASES)
def manifests(request: pytest.FixtureRequest, render: Render) -> Manifests:
    return render(request.param)


def secret_files(container: dict[str, Any]) -> dict[str, str]:
    """Return secret setting -> the file that its variable names."""
    named = environment(container)
    return {name: named[f"{name}_FILE"] for name in SECRETS if f"{name}_FILE" in named}


def loaded(
    manifests: Manifests, component: str, folder: Path, patch: pytest.MonkeyPatch
) -> Settings:
    """Return the settings that the program would load in this container."""
    container = manifests.containers[component]
    for name, value in environment(container).items():
        patch.setenv(name, value.replace(SECRETS_DIR, str(folder)))
    for name, path in secret_files(container).items():
        (folder / Path(path).name).write_text(SECRETS[name] + "\n")
    for key in mounted_keys(manifests.pods[component]):
        (folder / key).touch()
    return Settings()


# --- what runs


def test_the_commands_are_those_of_the_program(manifests: Manifests) -> None:
    from cli.main import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert set(manifests.containers) == COMPONENTS
    for name, container in manifests.containers.items():
        assert container["args"] == [name]
        assert "command" not in container
        assert name in commands


def test_each_container_has_settings_that_the_program_takes(
    manifests: Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for component in sorted(COMPONENTS):
        folder = tmp_path / component
        folder.mkdir()
        with monkeypatch.context() as patch:
            settings = loaded(manifests, component, folder, patch)
        assert settings.database_url == SECRETS["DATABASE_URL"]
        assert settings.brokers
        if component != "migrate":
            assert settings.redis_url == SECRETS["REDIS_URL"]
        if component == "api":
            assert settings.auth_mode == "keys"
            assert settings.api_host == "0.0.0.0"  # noqa: S104
            assert settings.api_key_pepper == SECRETS["API_KEY_PEPPER"]
        if component == "worker":
            assert settings.worker_instance_id == "counting.pod-0"
            assert settings.worker_metrics_host == "0.0.0.0"  # noqa: S104


def test_the_settings_of_a_component_have_precedence(render: Render) -> None:
    levels = {
        name: environment(container).get("LOG_LEVEL")
        for name, container in render("full").containers.items()
    }
    assert levels == {"worker": "WARNING", "api": "INFO", "migrate": "DEBUG"}


def test_large_numbers_are_written_in_full(render: Render) -> None:
    worker = render("full").containers["worker"]
    assert environment(worker)["KEYS_PER_GROUPING_MAX"] == "20000000"


# --- secrets


def test_no_secret_is_in_the_environment_or_created_by_the_chart(manifests: Manifests) -> None:
    assert manifests.kind("Secret") == []
    for container in manifests.containers.values():
        assert not SECRETS.keys() & environment(container).keys()
        assert "envFrom" not in container
        assert not any("secretKeyRef" in v.get("valueFrom", {}) for v in container["env"])


def test_each_secret_that_is_named_is_mounted(manifests: Manifests) -> None:
    for name, container in manifests.containers.items():
        (mount,) = [m for m in container["volumeMounts"] if m["name"] == "secrets"]
        assert (mount["mountPath"], mount["readOnly"]) == (SECRETS_DIR, True)
        files = {f"{SECRETS_DIR}/{key}" for key in mounted_keys(manifests.pods[name])}
        assert set(secret_files(container).values()) <= files


@pytest.mark.parametrize("name", ["minimal", "full"])
def test_a_component_has_only_the_secrets_that_it_uses(name: str, render: Render) -> None:
    manifests = render(name)
    database = {"DATABASE_URL"}
    stores = database | {"REDIS_URL"}
    previous = {"API_KEY_PEPPER_PREVIOUS"} if name == "full" else set()
    assert {n: set(secret_files(c)) for n, c in manifests.containers.items()} == {
        "worker": stores,
        "api": stores | {"API_KEY_PEPPER"} | previous,
        "migrate": database,
    }


def test_the_migration_may_have_a_role_of_its_own(render: Render) -> None:
    containers = render("full").containers
    files = {name: secret_files(c)["DATABASE_URL"] for name, c in containers.items()}
    owner, other = f"{SECRETS_DIR}/postgres-owner", f"{SECRETS_DIR}/postgres"
    assert files == {"worker": other, "api": other, "migrate": owner}
    assert "postgres-owner" not in mounted_keys(render("full").pods["worker"])


# --- security


def test_pods_have_no_rights_that_they_do_not_need(manifests: Manifests) -> None:
    for pod in manifests.pods.values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False  # API_PORT of a Service `api` is no port
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0  # the image's user has a name, which cannot be checked
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    for container in manifests.containers.values():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "limits" in container["resources"]
    for account in manifests.kind("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_only_tmp_can_be_written(manifests: Manifests) -> None:
    for name, pod in manifests.pods.items():
        (volume,) = [v for v in pod["volumes"] if "emptyDir" in v]
        mounts = {m["name"]: m for m in manifests.containers[name]["volumeMounts"]}
        assert mounts.keys() == {v["name"] for v in pod["volumes"]}
        assert mounts[volume["name"]]["mountPath"] == "/tmp"


# --- network


def test_everything_is_denied_that_no_policy_allows(manifests: Manifests) -> None:
    deny = manifests.named("NetworkPolicy", "-default-deny")["spec"]
    assert manifests.selected(deny["podSelector"]["matchLabels"]) == COMPONENTS
    assert deny.keys() == {"podSelector", "policyTypes"}
    for policy in manifests.kind("NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_pods_reach_only_dns_and_the_stores_that_they_use(render: Render) -> None:
    kafka, redis, postgres, dns = {(9092, "TCP")}, {(6379, "TCP")}, {(5432, "TCP")}, {(53, "UDP")}
    dns = {*dns, (53, "TCP")}
    manifests = render("minimal")
    allowed = {
        component: {
            (port["port"], port["protocol"])
            for policy in manifests.policies(component)
            for rule in policy["spec"].get("egress", [])
            for port in rule["ports"]
        }
        for component in COMPONENTS
    }
    assert allowed == {
        "worker": dns | kafka | redis | postgres,
        "api": dns | redis | postgres,
        "migrate": dns | kafka | postgres,
    }


def test_each_rule_has_the_peers_of_its_store(render: Render) -> None:
    rules = render("full").named("NetworkPolicy", "-worker")["spec"]["egress"]
    by_port = {port["port"]: rule for rule in rules for port in rule["ports"]}
    assert by_port.keys() == {53, 9093, 6379, 6380, 5432, 4318}
    assert by_port[9093]["to"] == [{"ipBlock": {"cidr": "10.1.0.0/24"}}]
    assert all("to" in rule for rule in rules)


def test_only_clients_and_prometheus_come_in(render: Render) -> None:
    manifests = render("full")
    sources = {
        component: [
            (
                rule["ports"][0]["port"],
                [
                    peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
                    for peer in rule["from"]
                ],
            )
            for policy in manifests.policies(component)
            for rule in policy["spec"].get("ingress", [])
        ]
        for component in COMPONENTS
    }
    assert sources == {
        "worker": [("metrics", ["monitoring"])],
        "api": [("http", ["ingress-nginx", "monitoring"])],
        "migrate": [],
    }


# --- how parts find each other


def test_each_selector_selects_the_pods_of_its_component(manifests: Manifests) -> None:
    for name in ("worker", "api"):
        workload = manifests.workloads[name]["spec"]["selector"]["matchLabels"]
        budget = manifests.named("PodDisruptionBudget", f"-{name}")["spec"]
        service = manifests.named("Service", f"-{name}")["spec"]
        for selector in (workload, budget["selector"]["matchLabels"], service["selector"]):
            assert manifests.selected(selector) == {name}
        ports = {port["name"] for port in manifests.containers[name]["ports"]}
        assert {port["targetPort"] for port in service["ports"]} == ports
        assert len({"minAvailable", "maxUnavailable"} & budget.keys()) == 1
    assert (
        manifests.workloads["worker"]["spec"]["serviceName"]
        == (manifests.named("Service", "-worker")["metadata"]["name"])
    )


def test_probes_ask_paths_that_exist(manifests: Manifests) -> None:
    from api.app import build

    app = build(Settings(api_key_pepper=SECRETS["API_KEY_PEPPER"]))
    endpoints = (ROOT / "streams/endpoints.py").read_text()
    paths = {
        "api": set(app.openapi()["paths"]),
        "worker": set(re.findall(r'self\.path == "(/\w+)"', endpoints)),
    }
    for name, port in (("api", "http"), ("worker", "metrics")):
        probes = {
            kind: manifests.containers[name][f"{kind}Probe"]["httpGet"]
            for kind in ("startup", "liveness", "readiness")
        }
        assert {kind: probe["path"] for kind, probe in probes.items()} == {
            "startup": "/healthz",
            "liveness": "/healthz",
            "readiness": "/readyz",
        }
        assert {probe["port"] for probe in probes.values()} == {port}
        assert {probe["path"] for probe in probes.values()} <= paths[name]


def test_a_probe_waits_longer_than_the_worker_does_for_its_event_loop(
    manifests: Manifests,
) -> None:
    for kind in ("startup", "liveness", "readiness"):
        probe = manifests.containers["worker"][f"{kind}Probe"]
        assert probe["timeoutSeconds"] > LOOP_TIMEOUT_S


def test_ports_are_those_that_the_program_opens(manifests: Manifests) -> None:
    for name, variable in (("api", "API_PORT"), ("worker", "WORKER_METRICS_PORT")):
        container = manifests.containers[name]
        (port,) = container["ports"]
        assert environment(container)[variable] == str(port["containerPort"])
        assert port["containerPort"] >= 1024  # without capabilities lower ones cannot be opened


def test_pods_have_the_time_that_they_need_to_stop(manifests: Manifests) -> None:
    pods = manifests.pods
    assert pods["worker"]["terminationGracePeriodSeconds"] > STOP_MAX_S
    sleep = manifests.containers["api"]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pods["api"]["terminationGracePeriodSeconds"] >= sleep + DRAIN_TIMEOUT_S + 3


def test_ingress_forwards_to_the_service_and_hides_metrics(render: Render) -> None:
    manifests = render("full")
    (ingress,) = manifests.kind("Ingress")
    service = manifests.named("Service", "-api")
    rules = ingress["spec"]["rules"]
    assert [rule["host"] for rule in rules] == ["summary.example.com", "summary.example.org"]
    for rule in rules:
        for path in rule["http"]["paths"]:
            assert path["pathType"] == "Exact" or not "/metrics".startswith(path["path"])
            backend = path["backend"]["service"]
            assert backend["name"] == service["metadata"]["name"]
            assert backend["port"]["name"] in {p["name"] for p in service["spec"]["ports"]}
        kinds = {path["path"]: path["pathType"] for path in rule["http"]["paths"]}
        assert (kinds["/"], kinds[FILES_PATH], kinds["/api"]) == ("Exact", "Prefix", "Prefix")
    assert render("minimal").kind("Ingress") == []


# --- scaling


def test_workers_are_a_statefulset_so_that_names_stay(manifests: Manifests) -> None:
    workload = manifests.workloads["worker"]
    assert workload["kind"] == "StatefulSet"
    assert workload["spec"]["podManagementPolicy"] == "Parallel"
    assert "volumeClaimTemplates" not in workload["spec"]


def test_workers_are_scaled_by_lag_up_to_the_partitions(render: Render) -> None:
    manifests = render("full")
    (scaled,) = manifests.kind("ScaledObject")
    workload = manifests.workloads["worker"]
    assert scaled["spec"]["scaleTargetRef"] == {
        "apiVersion": workload["apiVersion"],
        "kind": workload["kind"],
        "name": workload["metadata"]["name"],
    }
    assert "replicas" not in workload["spec"]  # an upgrade would set it back
    worker = environment(manifests.containers["worker"])
    assert scaled["spec"]["maxReplicaCount"] == int(worker["TOPIC_PARTITIONS"]) == 64
    assert scaled["spec"]["minReplicaCount"] >= 1  # windows are rolled without events too
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "kafka"
    metadata = trigger["metadata"]
    assert metadata["bootstrapServers"] == worker["KAFKA_BOOTSTRAP_SERVERS"]
    assert metadata["topic"] == worker["INTERACTIONS_TOPIC"]
    assert metadata["consumerGroup"] == worker["CONSUMER_GROUP"]
    assert metadata["lagThreshold"] == "50000"
    assert render("minimal").kind("ScaledObject") == []
    assert render("minimal").workloads["worker"]["spec"]["replicas"] == 2


def test_the_api_is_scaled_by_its_load(manifests: Manifests) -> None:
    (scaler,) = manifests.kind("HorizontalPodAutoscaler")
    workload = manifests.workloads["api"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == workload["metadata"]["name"]
    assert "replicas" not in workload["spec"]
    assert "cpu" in manifests.containers["api"]["resources"]["requests"]  # Utilization is of it


# --- migration


def test_the_migration_runs_before_anything_else_and_needs_nothing_of_the_release(
    manifests: Manifests,
) -> None:
    hooks = {
        m["kind"]: m
        for m in manifests.all
        if "helm.sh/hook" in m["metadata"].get("annotations", {})
    }
    assert hooks.keys() == {"Job", "NetworkPolicy"}
    weights = {}
    for kind, hook in hooks.items():
        annotations = hook["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert "hook-failed" not in annotations["helm.sh/hook-delete-policy"]  # keeps its log
        weights[kind] = int(annotations["helm.sh/hook-weight"])
    assert weights["NetworkPolicy"] < weights["Job"]
    assert manifests.pods["migrate"]["serviceAccountName"] == "default"
    assert hooks["Job"]["spec"]["activeDeadlineSeconds"] < 300  # `helm --timeout`, its default


# --- monitoring


def test_prometheus_finds_the_metrics_of_workers_and_api(render: Render) -> None:
    manifests = render("full")
    monitors = manifests.kind("ServiceMonitor")
    assert len(monitors) == 2
    for monitor in monitors:
        selector = monitor["spec"]["selector"]["matchLabels"]
        (service,) = [
            s
            for s in manifests.kind("Service")
            if selector.items() <= s["metadata"]["labels"].items()
        ]
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert render("minimal").kind("ServiceMonitor") == []


def test_the_rules_are_those_of_the_repository(render: Render) -> None:
    """With their `{{ $value }}`, which is no template of helm."""
    (rule,) = render("full").kind("PrometheusRule")
    texts = [(ROOT / "deploy/prometheus" / name).read_text() for name in RULES]
    url = "https://wiki.example.com/runbook#"
    assert any("{{ $value" in text for text in texts)
    assert rule["spec"]["groups"] == [
        group
        for text in texts
        for group in yaml.safe_load(text.replace("docs/runbook.md#", url))["groups"]
    ]


def test_rules_of_the_user_replace_them(render: Render) -> None:
    (rule,) = render("rules").kind("PrometheusRule")
    (group,) = rule["spec"]["groups"]
    assert group["rules"][0]["annotations"]["summary"] == "{{ $value }} events wait"
