"""An authority with a server and a client, for the deployer's API over TLS; made by openssl."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from lab.testbed.prometheus import free_port

if TYPE_CHECKING:
    from pathlib import Path


def api_tls(directory: Path, days: int = 2) -> tuple[int, str]:
    """Make certificates; return a free port, and the configuration that serves with them there."""
    _make(directory, days)
    port = free_port()
    return port, (
        f'[api.tls]\naddress = "127.0.0.1:{port}"\ncertificate = "{directory}/server.pem"\n'
        f'key_file = "{directory}/server.key"\nclient_ca = "{directory}/ca.pem"\n'
    )


def _make(directory: Path, days: int) -> None:
    """Make an authority, a server and a client ``CN=portal``, and a client of nobody."""
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", str(days))
    for name in ("ca", "stranger"):
        _openssl(
            directory, *new, "-x509", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"
        )
    for name, extension in (
        ("server", "subjectAltName=DNS:localhost"),
        ("portal", "extendedKeyUsage=clientAuth"),
    ):
        _openssl(
            directory,
            *(*new, "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-addext", extension),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"),
        )


def _openssl(directory: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)


def scrape_config(directory: Path, port: int) -> dict[str, object]:
    """Return how a Prometheus asks such an API, as ``CN=portal``."""
    files = {"ca_file": "ca.pem", "cert_file": "portal.pem", "key_file": "portal.key"}
    return {
        "target": f"localhost:{port}",
        "scheme": "https",
        "tls_config": {key: f"{directory}/{name}" for key, name in files.items()},
    }


SCRAPER = '[[role]]\nrole = "viewer"\ncertificate = "CN=portal"\n'
"""Of deployer.toml: what that one may do."""
