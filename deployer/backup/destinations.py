"""Where backups go: a directory, or a container of Swift in another project, into which it can only put."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from deployer.backup import files
from deployer.cloud.calls import call
from deployer.core.backup_format import RefusedBackupError

if TYPE_CHECKING:
    from pathlib import Path

    from keystoneauth1.session import Session

KEEP_S: Final = 90 * 86400.0
FILE_MODE: Final = 0o600
_NAME: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}\.age")


class DestinationError(RefusedBackupError):
    """A backup could not be written, read or listed; the text says where, and why."""


class Destination(Protocol):
    """One place."""

    @property
    def where(self) -> str:
        """Return what people know it by."""

    @property
    def readable(self) -> bool:
        """Tell whether what was put can be read back with what the deployer has."""

    def put(self, name: str, content: bytes) -> None:
        """Write a new backup, all of it or nothing."""

    def get(self, name: str) -> bytes:
        """Read one back."""

    def prune(self, now: float) -> tuple[str, ...]:
        """Delete what is older than 90 days, and never the newest; return the names."""


def name_of(now: float) -> str:
    """Return the name of a new backup: its moment, and something that nobody else's has."""
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.age"


class Directory:
    """A directory of this machine, or one that is mounted. What root writes there belongs to its owner."""

    readable: Final = True

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        self.where: Final = f"directory {path}"

    def put(self, name: str, content: bytes) -> None:
        """Write a file that is whole and on the disk before it has its name; its owner's only.

        Raises:
            DestinationError: it can't be written, or there is one of this name.
        """
        target, draft = self._path / name, self._path / f".{name}.new"
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    files.give_to_owner_of(self._path, descriptor)
                    file.write(content)
                    file.flush()
                    os.fsync(descriptor)
                os.link(draft, target)  # which never replaces another file
            finally:
                draft.unlink()
            self._sync()
        except OSError as error:
            reason = error.strerror
        else:
            return
        raise DestinationError(f"write the backup to {self.where}: {reason}.")

    def get(self, name: str) -> bytes:
        """Read a file.

        Raises:
            DestinationError: it is not there, or can't be read.
        """
        try:
            return (self._path / name).read_bytes()
        except OSError as error:
            reason = error.strerror
        raise DestinationError(f"read the backup {name} from {self.where}: {reason}.")

    def prune(self, now: float) -> tuple[str, ...]:
        """Delete our files that are older than 90 days by their names; other files are left alone.

        Raises:
            DestinationError: the directory can't be read, or a file can't be deleted.
        """
        oldest = f"{datetime.fromtimestamp(now - KEEP_S, UTC):%Y%m%dT%H%M%SZ}"
        try:
            ours = sorted(path.name for path in self._path.iterdir() if _NAME.fullmatch(path.name))
            old = tuple(name for name in ours[:-1] if name < oldest)
            for name in old:
                (self._path / name).unlink()
        except OSError as error:
            reason = error.strerror
        else:
            return old
        raise DestinationError(f"delete old backups in {self.where}: {reason}.")

    def _sync(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Swift:
    """A versioned container at ``url``, with a session that may put into it and nothing else.

    What was put can be overwritten with that, but not read, listed, or deleted: former versions survive a
    deployer that was taken over. Pruning is its owner's, who is elsewhere: X-Delete-After does not reach
    former versions (measured).
    """

    readable: Final = False

    def __init__(self, session: Session, url: str) -> None:
        self._session: Final = session
        self._url: Final = url.rstrip("/")
        self.where: Final = f"Swift {self._url}"

    def put(self, name: str, content: bytes) -> None:
        """Put an object; Swift compares its digest before it keeps it.

        Raises:
            CloudError: it was refused, or no answer came.
        """
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()  # what Swift's ETag is
        headers = {"Content-Type": "application/octet-stream", "ETag": digest}
        step = f"put the backup {name} into {self.where}"
        call(self._session, "PUT", f"{self._url}/{name}", step, (201,), data=content, headers=headers)

    def get(self, name: str) -> bytes:
        """Refuse: the deployer's credential can't.

        Raises:
            DestinationError: always.
        """
        raise DestinationError(
            f"read the backup {name} from {self.where}: the deployer may only put. Its owner can read it."
        )

    def prune(self, now: float) -> tuple[str, ...]:  # noqa: ARG002  # the owner's
        """Delete nothing."""
        return ()
