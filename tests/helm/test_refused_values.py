"""Values with which the pods could not start are refused, with a message that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.helm_chart import CHART, run_helm

MINIMAL = ("--values", str(CHART / "ci/minimal-values.yaml"))


def test_an_install_without_a_secret_says_how_to_make_one(helm: Path) -> None:
    result = run_helm(helm, "template")
    assert result.returncode == 1
    assert result.stdout == ""
    for part in (
        "existingSecret is not set.",
        "kubectl --namespace counting create secret generic interaction-summary",
        "--from-literal=database-url=",
        "--from-literal=redis-url=",
        "--from-literal=api-key-pepper=",
    ):
        assert part in result.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("settings.KAFKA_BOOTSTRAP_SERVERS=", "settings.KAFKA_BOOTSTRAP_SERVERS is not set"),
        ("settings.LOG_LEVLE=INFO", "settings.LOG_LEVLE is not a setting of this version"),
        ("worker.settings.LOG_LEVLE=INFO", "worker.settings.LOG_LEVLE is not a setting"),
        ("settings.DATABASE_URL=postgresql://u:p@h/d", "settings.DATABASE_URL is secret"),
        ("api.settings.API_KEY_PEPPER=x", "api.settings.API_KEY_PEPPER is secret"),
        ("settings.REDIS_URL_FILE=/tmp/x", "settings.REDIS_URL_FILE is secret"),
        ("settings.OTEL_EXPORTER_OTLP_HEADERS=key=x", "OTEL_EXPORTER_OTLP_HEADERS holds a key"),
        ("api.settings.AUTH_MODE=open", "api.settings.AUTH_MODE cannot be set"),
        ("settings.API_PORT=80", "settings.API_PORT cannot be set: set api.port"),
        ("worker.settings.WORKER_INSTANCE_ID=w", "WORKER_INSTANCE_ID cannot be set"),
        ("settings.TOPIC_PARTITIONS=many", "/settings/TOPIC_PARTITIONS"),
        ("worker.terminationGracePeriodSeconds=5", "/worker/terminationGracePeriodSeconds"),
        ("api.preStopSleepSeconds=15", "the API needs 25 s to stop"),
        ("api.port=80", "/api/port"),
        ("worker.replica=3", "additional properties 'replica' not allowed"),
        ("api.ingress.enabled=true", "api.ingress.hosts is empty"),
        ("prometheusRule.enabled=true,prometheusRule.rules=x: 1", "has no `groups`"),
        ("api.autoscaling.minReplicas=11", "is more than api.autoscaling.maxReplicas"),
        ("worker.replicas=13", "worker.replicas is 13, which is more than settings.TOPIC_PART"),
        (
            "worker.autoscaling.enabled=true,worker.autoscaling.minReplicas=13",
            "minReplicas is 13, which is more than settings.TOPIC_PARTITIONS, 12",
        ),
    ],
)
def test_values_that_cannot_work_are_refused(given: str, message: str, helm: Path) -> None:
    assert run_helm(helm, "template", *MINIMAL).returncode == 0
    typed = ("autoscaling", "terminationGrace", "Sleep", "api.port=", "worker.replica", "enabled")
    option = "--set" if any(part in given for part in typed) else "--set-string"
    result = run_helm(helm, "template", *MINIMAL, option, given)
    assert result.returncode == 1
    assert message in result.stderr


def test_a_setting_that_is_no_string_is_refused(helm: Path) -> None:
    """YAML numbers are floating-point numbers in helm: 20000000 would become 2e+07."""
    result = run_helm(helm, "template", *MINIMAL, "--set", "settings.TENANTS_MAX=20000000")
    assert result.returncode == 1
    assert "/settings/TENANTS_MAX': got number, want string" in result.stderr
