"""The certificates of ``[api.tls]``: renewed files are taken without a restart, and their ends are known."""

from __future__ import annotations

import logging
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cryptography import x509

from deployer.core import lifetimes
from deployer.core.lifetimes import Lifetime
from deployer.database import checks

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import Connection

    from deployer.config.model import Tls

LOG: Final = logging.getLogger(__name__)
RENEW: Final = "put a new file in its place: it is taken within a minute; runbook credential-ends"
RENEW_CA: Final = "add the next CA to the file, then restart the API; runbook credential-ends"


def lifetimes_of(settings: Tls) -> tuple[Lifetime, ...]:
    """Return how long the server's certificate and the clients' CA last, as they are on the disk now."""
    host = socket.gethostname()
    return (
        _lifetime(f"certificate of the API on {host}", settings.certificate, RENEW, host, leaf=True),
        _lifetime(f"CA of the API's clients on {host}", settings.client_ca, RENEW_CA, host, leaf=False),
    )


def write_down(c: Connection, now: float, found: tuple[Lifetime, ...]) -> None:
    """Keep what was found, and warn of what ends."""
    for one in found:
        said = lifetimes.warning(one, now)
        checks.record(c, now, lifetimes.PREFIX + one.name, passed=not said, detail=one.detail())
        if said:
            LOG.warning("%s", said)


def stamp(settings: Tls, key: Path) -> tuple[tuple[int, int, int], ...]:
    """Return what changes when somebody replaces the certificate or its key; empty: they can't be read."""
    try:
        found = [path.stat() for path in (settings.certificate, key)]
    except OSError:
        return ()
    return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)


def _lifetime(name: str, path: Path, renew: str, host: str, *, leaf: bool) -> Lifetime:
    """Return how long a file lasts: its first certificate, or of several CAs the last that ends."""
    ends: list[float] = []
    since: list[float] = []
    problem = ""
    try:
        for one in x509.load_pem_x509_certificates(path.read_bytes()):
            ends.append(_not_after(one).timestamp())
            since.append(_not_before(one).timestamp())
    except OSError as error:
        problem = f"{path} can't be read: {error.strerror}"
    except ValueError:
        problem = f"{path} is no certificate in PEM"
    if not ends:
        return Lifetime(name, problem=problem or f"{path} has no certificate", renew=renew, host=host)
    at = 0 if leaf else ends.index(max(ends))
    return Lifetime(name, ends[at], since[at], renew=renew, host=host)


def _not_after(one: x509.Certificate) -> datetime:
    found = getattr(one, "not_valid_after_utc", None)  # from cryptography 42 on, where the other one warns
    return found if isinstance(found, datetime) else one.not_valid_after.replace(tzinfo=UTC)


def _not_before(one: x509.Certificate) -> datetime:
    found = getattr(one, "not_valid_before_utc", None)
    return found if isinstance(found, datetime) else one.not_valid_before.replace(tzinfo=UTC)
