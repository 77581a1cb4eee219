"""The files of the page `/`: how they are served, and what they may not do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import build
from store.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "api/page"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".html", ".css", ".js", ".svg"))
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


@pytest.fixture
def client() -> TestClient:
    """Return a client without a key of an API that wants keys. Its stores are not asked."""
    return TestClient(build(Settings(api_key_pepper="p" * 32)), base_url="http://bank.example")


def path_of(file: Path) -> str:
    return "/" if file.name == "index.html" else f"/page/{file.name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_file_is_served_without_a_key_with_its_type_and_policy(
    file: Path, client: TestClient
) -> None:
    response = client.get(path_of(file))
    assert response.status_code == 200
    assert response.content == file.read_bytes()
    media_types = {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
    }
    assert response.headers["content-type"] == media_types[file.suffix]
    policy = dict(
        part.strip().split(" ", 1)
        for part in response.headers["content-security-policy"].split(";")
    )
    assert policy == POLICY
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-cache"

    known = {"If-None-Match": response.headers["etag"]}
    again = client.get(path_of(file), headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == response.headers["content-security-policy"]
    assert client.get(path_of(file), headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/page",
        "/page/",
        "/page/none.js",
        "/page/index.html",
        "/page/__init__.py",
        "/page/..%2fapp.py",
    ],
)
def test_nothing_else_of_the_folder_is_served(path: str, client: TestClient) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "NOT_FOUND"


def test_every_file_is_loaded_by_another_and_every_loaded_one_exists() -> None:
    loaded = {"index.html"}
    for file in FILES:
        text = file.read_text()
        loaded |= set(re.findall(r'(?:href|src)="page/([^"]+)"', text))
        loaded |= set(re.findall(r'^(?:import|\} from) .*?"\./([^"]+)";', text, re.MULTILINE))
        loaded |= set(re.findall(r'from "\./([^"]+)";', text))
    assert loaded == {file.name for file in FILES}


def test_the_page_has_no_inline_script_or_style_and_no_other_host() -> None:
    page = (FOLDER / "index.html").read_text()
    assert re.findall(r"<script[^>]*>", page) == ['<script type="module" src="page/main.js">']
    assert "<style" not in page
    assert re.findall(r"\s(?:on\w+|style)=", page) == []
    for file in FILES:
        addresses = re.findall(r"""https?://[^\s"']+|["'(]//[^\s"')]+""", file.read_text())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, file.name


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_no_script_parses_data_as_html_or_as_code(file: Path) -> None:
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|setHTML|srcdoc|eval\(|Function\("
        r"|localStorage|document\.cookie|\bDOMParser\b|createContextualFragment"
    )
    assert re.findall(forbidden, file.read_text()) == []


def test_every_id_that_a_script_names_is_in_the_page_once() -> None:
    page = (FOLDER / "index.html").read_text()
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    named = {
        name for file in SCRIPTS for name in re.findall(r'byId\("([^"]+)"\)', file.read_text())
    }
    assert len(named) > 20
    assert named <= set(ids)
