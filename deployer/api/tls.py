"""The API's door for other machines: TLS with certificates of both sides."""

from __future__ import annotations

import contextlib
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deployer.listening import ListenError

if TYPE_CHECKING:
    from deployer.config.model import Credential, Tls

HANDSHAKE_S: Final = 10.0


def context(settings: Tls) -> ssl.SSLContext:
    """Return what TLS needs; a caller without a certificate of the clients' CA gets no connection.

    Raises:
        ListenError: a file is missing or is none.
    """
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.minimum_version = ssl.TLSVersion.TLSv1_2
    found.verify_mode = ssl.CERT_REQUIRED
    found.set_alpn_protocols(["http/1.1"])
    failed = True
    with contextlib.suppress(OSError, ssl.SSLError, ValueError):
        found.load_verify_locations(settings.client_ca)
        failed = not load(found, settings)
    if failed:
        raise ListenError("[api.tls]: certificate, key or client_ca can't be read, or don't belong together")
    return found


def load(found: ssl.SSLContext, settings: Tls) -> bool:
    """Have new connections get the certificate that is on the disk now; False where it can't be used."""
    with contextlib.suppress(OSError, ssl.SSLError, ValueError):
        # tried apart: a context that took half of it would answer nobody
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.certificate, path_of(settings.key))
        found.load_cert_chain(settings.certificate, path_of(settings.key))
        return True
    return False


def path_of(credential: Credential) -> Path:
    """Return the file in which a credential is."""
    if credential.file is not None:
        return credential.file
    return Path(os.environ.get("CREDENTIALS_DIRECTORY", "/run/credentials")) / (credential.name or "")
