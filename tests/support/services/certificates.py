"""Certificates for tests, made by `openssl`: a CA, and what it signs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cli.embedded.programs import find_program, run
from cli.embedded.server import HOST, StackError

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class KeyPair(NamedTuple):
    """Files of a certificate and of its private key."""

    certificate: Path
    key: Path

    def joined(self) -> Path:
        """Return one file with both."""
        path = self.key.with_suffix(".joined.pem")
        path.write_text(self.key.read_text() + self.certificate.read_text())
        return path


def with_passphrase(pair: KeyPair) -> Path:
    """Return a file with the same key, protected by a passphrase. Raises StackError."""
    path = pair.key.with_suffix(".locked.key")
    options = ("-topk8", "-in", pair.key, "-out", path, "-passout", "pass:word")
    run([_openssl(), "pkcs8", *options], "protecting a key")
    return path


def _openssl() -> Path:
    openssl = find_program("openssl", "/usr/bin")
    if openssl is None:
        raise StackError("openssl: not installed; apt-get install openssl")
    return openssl


class CertificateAuthority:
    """CA with its own key; its files are in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        """Create the CA. Raises StackError."""
        self._folder = folder / name
        self._folder.mkdir()
        self._pair = self._make("ca", "-subj", f"/CN={name}")

    @property
    def file(self) -> Path:
        """File of the certificate that signs the others."""
        return self._pair.certificate

    def issue(self, name: str, address: str = HOST) -> KeyPair:
        """Return a certificate of the name for the IP address, valid for a day. Raises StackError.

        It serves servers as well as clients.
        """
        signed = ("-CA", str(self._pair.certificate), "-CAkey", str(self._pair.key))
        leaf = ("-addext", f"subjectAltName=IP:{address}", "-addext", "basicConstraints=CA:FALSE")
        return self._make(name, "-subj", f"/CN={name}", *signed, *leaf)

    def _make(self, name: str, *arguments: str) -> KeyPair:
        pair = KeyPair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        files = ("-out", pair.certificate, "-keyout", pair.key)
        run(
            [_openssl(), "req", "-x509", "-days", "1", *_NEW_KEY, *files, *arguments],
            f"making the certificate {name}",
        )
        return pair
