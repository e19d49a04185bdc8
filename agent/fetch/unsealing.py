"""Opens sealed values with the key of this VPS, which only fetch has (common/sealing.py).

The key, and the library that uses it, are loaded when the first sealed value of a cycle is there, and never
where there is none.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.core.errors import CloudError
from agent.core.secret import Seal
from agent.fetch.credential import read_file
from common import sealing_key
from common.sealed import SealError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.names import SecretName
    from common.sealing_key import Announced

MAX_KEYS: Final = 2
"""The former key and the next one, while a key is replaced."""
_NO_KEY: Final = (
    "it is sealed, and this VPS has no key: vps-secrets join makes one, and systemctl cat vps-secrets-fetch@ "
    f"shows whether the credential {sealing_key.CREDENTIAL} is loaded"
)


class NoKeyError(SealError):
    """This VPS has no key."""


class Unsealer:
    """Opens the values of one VPS in one cycle, in several threads."""

    def __init__(self, vps_id: str, file: Path | None, environ: Mapping[str, str]) -> None:
        """``file`` has the keys where the configuration says so; else systemd has put them somewhere."""
        self._vps_id: Final = vps_id
        self._file: Final = file
        self._environ: Final = environ
        self._lock: Final = threading.Lock()
        self._keys: tuple[Announced, ...] | None = None

    def open(self, payload: bytes, name: SecretName) -> tuple[bytes, Seal]:
        """Return the value in a sealed payload, and its place among the versions of this name.

        Raises:
            SealError: there is no key, or it is not this VPS's value of this name.
        """
        with self._lock:  # one thread loads the library and the keys
            from common import sealing  # noqa: PLC0415  # cryptography is heavy, and few cycles need it

            if self._keys is None:
                self._keys = self._read()
        private = [held.key for held in self._keys]
        plain, header, number = sealing.unseal_by(payload, private, self._vps_id, name)
        return plain, Seal(header.sequence, header.floor, header.keep_s, sealing_key.id_of(private[number]))

    def announcement(self) -> dict[str, str] | None:
        """Return the consumer that announces the key of this VPS, or None where it has none.

        Raises:
            SealError: it can't be read.
        """
        try:
            held = self._read()[0]
        except NoKeyError:
            return None
        from common import sealing  # noqa: PLC0415  # as above

        return replace(held, key=sealing.public_of(held.key)).consumer

    def _read(self) -> tuple[Announced, ...]:
        directory = self._environ.get("CREDENTIALS_DIRECTORY")
        path = self._file or (Path(directory) / sealing_key.CREDENTIAL if directory else None)
        if path is None or (self._file is None and not path.exists()):
            raise NoKeyError(_NO_KEY)
        problem = ""
        try:
            file = read_file(path, from_systemd=self._file is None)
        except CloudError as error:
            problem = f"its key can't be read: {error.failure.advice}"
        if problem:
            raise SealError(problem)
        if file.exposed:
            raise SealError(f"{file.exposed}, the key of this VPS: make {path} readable for its owner only")
        lines = file.content.decode("ascii", "replace").split()
        keys = tuple(key for line in lines if (key := sealing_key.parse(line)))
        if lines in ([], [sealing_key.NO_KEY]):
            raise NoKeyError(_NO_KEY)
        if len(keys) != len(lines) or len(keys) > MAX_KEYS:
            raise SealError(f"the key of this VPS is not one or {MAX_KEYS} lines: docs/deployment.md")
        return keys
