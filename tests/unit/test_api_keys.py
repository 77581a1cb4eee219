"""API keys and secrets: their form and their hash, and settings that come from files."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from store.api_keys import ROLES, has_role, hash_key, is_key, make_key, pepper_id
from store.settings import SECRETS, Settings
from tests.support.command_line import refused

PEPPER = "p" * 64


def test_a_key_is_a_prefix_and_32_random_characters() -> None:
    keys = {make_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(is_key(key) and len(key) == 36 and key.startswith("krn_") for key in keys)
    key = keys.pop()
    for wrong in ("", "krn_", key[:-1], key + "x", key + "\n", "KRN_" + key[4:], "krn_" + "é" * 32):
        assert not is_key(wrong), wrong


def test_the_hash_is_hmac_sha_256_with_the_pepper() -> None:
    key = make_key()
    expected = hmac.new(PEPPER.encode(), key.encode(), hashlib.sha256).digest()
    assert hash_key(key, PEPPER) == expected
    assert hash_key(key, "q" * 64) != expected
    assert pepper_id(PEPPER) != pepper_id("q" * 64)
    assert PEPPER[:4] not in pepper_id(PEPPER)


def test_each_role_has_the_rights_of_the_ones_before_it() -> None:
    granted = {(role, needed) for role in ROLES for needed in ROLES if has_role(role, needed)}
    assert granted == {
        ("viewer", "viewer"),
        ("editor", "viewer"), ("editor", "editor"),
        ("admin", "viewer"), ("admin", "editor"), ("admin", "admin"),
    }  # fmt: skip


def test_a_short_pepper_is_refused_with_the_way_to_make_one() -> None:
    for name, error in (
        ("API_KEY_PEPPER", refused("keys", "list", API_KEY_PEPPER="short-and-known")),
        ("API_KEY_PEPPER_PREVIOUS", refused("api", API_KEY_PEPPER_PREVIOUS="short-and-known")),
    ):
        assert f"{name}=…: at least 32 characters" in error
        assert "secrets.token_hex(32)" in error
        assert "short-and-known" not in error


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_may_come_from_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = name.upper()
    monkeypatch.delenv(variable, raising=False)
    if name == "kafka_sasl_password":
        monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
        monkeypatch.setenv("KAFKA_SASL_USERNAME", "u")
    file = tmp_path / "secret"
    value = f"redis://u:{PEPPER}@h/0"
    file.write_text(f"{value}\n")
    monkeypatch.setenv(f"{variable}_FILE", str(file))
    settings = Settings()
    assert getattr(settings, name) == value
    assert PEPPER not in repr(settings)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"\xff", "not UTF-8"), (b"x" * 70_000, "over")]
)
def test_an_unreadable_file_of_a_secret_is_bad_usage(
    content: bytes | None, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "pepper"
    if content is not None:
        file.write_bytes(content)
    error = refused("keys", "list", API_KEY_PEPPER_FILE=str(file))
    assert f"API_KEY_PEPPER_FILE={file}: " in error
    assert words in error


def test_a_secret_given_twice_is_bad_usage(tmp_path: Path) -> None:
    file = tmp_path / "pepper"
    file.write_text(PEPPER)
    error = refused("keys", "list", API_KEY_PEPPER_FILE=str(file), API_KEY_PEPPER=PEPPER)
    assert "API_KEY_PEPPER and API_KEY_PEPPER_FILE are both set" in error


def test_a_key_needs_a_pepper_a_tenant_and_a_role() -> None:
    create = ("keys", "create", "--tenant", "acme")
    assert "API_KEY_PEPPER is not set" in refused(*create)
    assert "--role: 'root' is not one of" in refused(
        *create, "--role", "root", API_KEY_PEPPER=PEPPER
    )
    assert "--tenant: 'a b'" in refused("keys", "create", "--tenant", "a b", API_KEY_PEPPER=PEPPER)
    assert "--name: at most 100" in refused(*create, "--name", "x" * 101, API_KEY_PEPPER=PEPPER)
    assert "--rate-limit" in refused(*create, "--rate-limit", "0", API_KEY_PEPPER=PEPPER)
