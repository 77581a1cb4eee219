"""Where helm can ask the cluster, a Secret that is not there or lacks a key is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.support.helm_chart import CHART, KUBERNETES, NAMESPACE, run_helm

KEYS = ("database-url", "redis-url", "api-key-pepper")
RESOURCES = [
    {"name": name, "kind": kind, "singularName": "", "namespaced": True, "verbs": ["get"]}
    for name, kind in (("configmaps", "ConfigMap"), ("secrets", "Secret"))
]


@contextmanager
def cluster(secrets: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Serve the part of the Kubernetes API that `lookup` uses; yield its address.

    `secrets`: name -> its keys, in the namespace of the release.
    """
    prefix = f"/api/v1/namespaces/{NAMESPACE}"
    answers: dict[str, dict[str, Any]] = {
        "/version": {"major": "1", "minor": "37", "gitVersion": f"v{KUBERNETES}"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": RESOURCES},
        f"{prefix}/configmaps/kube-root-ca.crt": {"kind": "ConfigMap", "apiVersion": "v1"},
    }
    for name, keys in secrets.items():
        data = dict.fromkeys(keys, "eA==")
        answers[f"{prefix}/secrets/{name}"] = {"kind": "Secret", "apiVersion": "v1", "data": data}
    missing = {"kind": "Status", "apiVersion": "v1", "reason": "NotFound", "code": 404}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            body = json.dumps(answer or missing).encode()
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("secrets", "message"),
    [
        ({"interaction-summary": KEYS}, ""),
        ({"another": KEYS}, "The namespace counting has no Secret interaction-summary"),
        (
            {"interaction-summary": KEYS[:2]},
            "The Secret interaction-summary (existingSecret) has no key api-key-pepper",
        ),
    ],
    ids=["complete", "not there", "a key is missing"],
)
def test_the_secret_must_have_what_the_pods_mount(
    secrets: dict[str, tuple[str, ...]], message: str, helm: Path
) -> None:
    values = str(CHART / "ci/minimal-values.yaml")
    with cluster(secrets) as address:
        result = run_helm(
            helm, "template", "--values", values, "--dry-run=server", "--kube-apiserver", address
        )
    assert result.returncode == (1 if message else 0), result.stderr
    assert message in result.stderr
