"""The beacon: a small object that the deployment touches when it has rotated, so that agents look at once.

Touching is the last step: an agent that looks must find the rotation complete. The content carries nothing;
it is random, since Swift's entity tag is its digest, and of random length, since nginx's entity tag is the
file's second and size: two touches of one second would look like one.
Source: https://docs.openstack.org/api-ref/object-store/
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from deployer.cloud.calls import call

if TYPE_CHECKING:
    from keystoneauth1.session import Session

MAX_BYTES: Final = 1024
READABLE: Final = 0o644


def content() -> bytes:
    """Return what a touched beacon holds: text that means nothing."""
    return secrets.token_hex(MAX_BYTES)[: 64 + secrets.randbelow(MAX_BYTES - 64)].encode()


def touch_file(path: Path) -> None:
    """Put a new file in the place of the old one, which a web server may be reading."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, READABLE)
        file.write(content())
    Path(draft).replace(path)


class Beacons:
    """One container of Swift at ``url`` (``…/v1/AUTH_PROJECT/CONTAINER``), with a session of its project."""

    def __init__(self, session: Session, url: str) -> None:
        self._session = session
        self.url = url

    def create(self, reader_project_id: str) -> None:
        """Make the container, if need be, readable for the users of one project (``vps-runtime``)."""
        acl = {"X-Container-Read": f"{reader_project_id}:*"}
        self._call("PUT", "", "make the container of the beacons", headers=acl)

    def touch(self, name: str) -> None:
        """Touch the beacon of a VPS, or of a fleet: it is made where it is not there."""
        headers = {"Content-Type": "text/plain"}
        self._call("PUT", f"/{name}", f"touch the beacon {name}", headers=headers, data=content())

    def temporary_url(self, name: str, seconds: int) -> str:
        """Return a URL with which anybody may read this one beacon for so long; it is signed, not listed.

        Replaces the container's key: URLs that were made before end.
        """
        key = secrets.token_hex(32)
        headers = {"X-Container-Meta-Temp-URL-Key": key}
        self._call("POST", "", "set the key of temporary URLs", headers=headers)
        expires = int(time.time()) + seconds
        signed = f"GET\n{expires}\n{urlsplit(self.url).path}/{name}".encode()
        signature = hmac.new(key.encode(), signed, hashlib.sha256).hexdigest()
        return f"{self.url}/{name}?temp_url_sig={signature}&temp_url_expires={expires}"

    def _call(self, method: str, path: str, step: str, **request: Any) -> None:
        call(self._session, method, self.url + path, step, range(200, 300), **request)
