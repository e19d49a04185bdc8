"""What /run remembers of the latest publication: generation, names, versions, readers; never a value.

The directory is memory and outlives an orderly stop, but not a boot (RuntimeDirectoryPreserve=). So the next
run goes on with the generation, and knows what has changed while no agent was running. Where the file is lost
or damaged, watchers miss nothing: the next generation is another one, and they learn all names.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.core.access import readers
from common import untrusted_json
from common.names import SecretName, Version, parse_name, parse_version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.core.access import Grant
    from agent.core.secret import Snapshot
    from agent.serve.store.index import Owner

FILE: Final = "~published/published.json"
"""Beside the signs of serve/host/rotation_trigger.py; "~" is in no unit's name. In a directory of its own:
a file that is made beside a sign could cost systemd the sign (``rotation_trigger._say``)."""
FORMAT: Final = 2
"""1 is what an agent has left that remembered no readers: after its update watchers learn all names once."""
MAX_BYTES: Final = 4 * 1024 * 1024
_KEYS: Final = ("format", "vpsId", "container", "generation", "changed", "versions", "readers")
_MOST: Final = 2**53
_MAX_READERS: Final = 10_000
_TEXT: Final = 400

_log: Final = logging.getLogger("agent.published")


@dataclass(frozen=True, slots=True)
class Published:
    """One publication. ``changed``: the generation in which each name last changed, also of names that went.

    ``versions`` are those that were served; a name that could not be read then has the one before.
    ``readers`` are those of each name that was served, as agent/core/access.py words them.
    """

    generation: int
    changed: Mapping[SecretName, int]
    versions: Mapping[SecretName, Version]
    readers: Mapping[SecretName, frozenset[str]]


class PublicationRecord:
    """The file in ``directory``; without a directory it is remembered in this process only."""

    def __init__(self, directory: Path | None, owner: Owner) -> None:
        self._file: Final = None if directory is None else directory / FILE
        self._owner: Final = owner
        self.last = self._written = self._read()
        """The latest publication that is known, of this run or a former one."""

    def untold(self, snapshot: Snapshot) -> tuple[SecretName, ...]:
        """Return the names that differ from the latest publication; none where none is known."""
        if self.last is None:
            return ()
        told, now = self.last.versions, self._versions(snapshot)
        return tuple(sorted(name for name in told.keys() | now.keys() if told.get(name) != now.get(name)))

    def newly_readable(self, grants: tuple[Grant, ...]) -> tuple[SecretName, ...]:
        """Return the names of the latest publication that have readers by now whom they did not have then."""
        former = self.last.readers if self.last is not None else {}
        return tuple(name for name, before in former.items() if readers(name, grants) - before)

    def remember(
        self,
        snapshot: Snapshot,
        changed: Mapping[SecretName, int],
        grants: tuple[Grant, ...],
        *,
        told: bool,
    ) -> None:
        """Remember a publication; for the next run only once everybody was ``told`` of it.

        Where that is not so, or the file can't be written, the next run tells again: at worst a change is
        reported twice.
        """
        self.last = published = Published(
            snapshot.generation,
            dict(changed),
            self._versions(snapshot),
            {name: readers(name, grants) for name in snapshot.current},
        )
        if self._file is None or not told or published == self._written:
            return
        content = {
            "format": FORMAT,
            "vpsId": self._owner.vps_id,
            "container": self._owner.container,
            "generation": published.generation,
            "changed": published.changed,
            "versions": published.versions,
            "readers": {name: sorted(found) for name, found in published.readers.items()},
        }
        new = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(0o700, exist_ok=True)
            new.touch(0o600)
            new.write_text(json.dumps(content))
            new.replace(self._file)
            self._written = published
        except OSError as error:
            _log.warning(
                "can't write %s: %s; after a restart the applications may hear of changes that they know",
                self._file,
                error.strerror,
            )

    def _versions(self, snapshot: Snapshot) -> Mapping[SecretName, Version]:
        """Return the versions of a snapshot; of what it could not read, those that are known from before."""
        versions = snapshot.versions()
        if self.last is not None:
            for name in snapshot.remarks.pending - versions.keys():
                if name in self.last.versions:
                    versions[name] = self.last.versions[name]
        return versions

    def _read(self) -> Published | None:
        if self._file is None:
            return None
        try:
            with self._file.open("rb") as file:
                untrusted = file.read(MAX_BYTES)
            return self._decode(untrusted)
        except FileNotFoundError:
            return None
        except OSError as error:
            problem = error.strerror
        except untrusted_json.MalformedError as error:
            problem = str(error)
        _log.warning("can't use %s: %s; every watcher learns all names", self._file, problem)
        return None

    def _decode(self, untrusted: bytes) -> Published | None:
        what = "what was published"
        members = untrusted_json.mapping(untrusted_json.parse(untrusted, what), what)
        if members.get("format") == 1:
            return None
        untrusted_json.record(members, what, _KEYS)
        whose = (members["format"], members["vpsId"], members["container"])
        if whose != (FORMAT, self._owner.vps_id, self._owner.container):
            return None
        changed = untrusted_json.mapping(members["changed"], "changed")
        versions = untrusted_json.mapping(members["versions"], "versions")
        return Published(
            untrusted_json.integer(members["generation"], "generation", _MOST),
            {_name(key): untrusted_json.integer(value, "changed", _MOST) for key, value in changed.items()},
            {_name(key): _version(value) for key, value in versions.items()},
            {
                _name(key): frozenset(
                    untrusted_json.text(item, "a reader", _TEXT)
                    for item in untrusted_json.array(value, "readers", _MAX_READERS)
                )
                for key, value in untrusted_json.mapping(members["readers"], "readers").items()
            },
        )


def _name(untrusted: str) -> SecretName:
    name = parse_name(untrusted)
    if name is None:
        raise untrusted_json.MalformedError("a name is not one")
    return name


def _version(untrusted: object) -> Version:
    version = parse_version(untrusted_json.text(untrusted, "a version", 36))
    if version is None:
        raise untrusted_json.MalformedError("a version is not one")
    return version
