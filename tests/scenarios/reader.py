"""What the application saw: a client that never stops reading, and a table of everything that it got.

No value is in the table: a read is told from another by name, version and the digest of what came.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lab.testbed.running import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from lab.testbed.running import Response

CUT_OFF = "cut off"
"""The agent was killed with this request in its hands; nothing else may cost an answer."""


@dataclass(frozen=True)
class Read:
    """One read. ``at`` is on the agent's clock since the start (s), ``took`` in real seconds.

    ``gap`` says why there was no answer, or which one there was instead of a value.
    """

    at: float
    took: float
    what: str
    gap: str = ""
    age: float | None = None
    stale: bool = False
    version: str = ""
    generation: int | None = None
    digest: str = ""


class Reader:
    """Reads names one by one, and now and then the bundle, until it is stopped.

    ``now`` is the agent's clock. ``seen`` looks at each answer with a value, in the reader's thread.
    """

    def __init__(
        self,
        socket: Path,
        names: Sequence[str],
        now: Callable[[], float],
        seen: Callable[[str, Response], None] = lambda *_: None,
    ) -> None:
        self.reads: list[Read] = []
        self.wrong: list[str] = []
        """What ``seen`` objected to."""
        self._socket, self._names, self._now, self._seen = socket, tuple(names), now, seen
        self._began = now()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; the table is whole."""
        self._over.set()
        self._thread.join()

    def read(self, what: str) -> Read:
        """Make one read."""
        began = time.monotonic()
        at = self._now() - self._began
        target = "/v1/bundle" if what == "bundle" else f"/v1/secrets/{what}"
        try:
            answer = ask(self._socket, "GET", target)
        except (OSError, http.client.HTTPException):
            return Read(at, time.monotonic() - began, what, CUT_OFF)
        took = time.monotonic() - began
        if answer.status != 200:
            return Read(at, took, what, f"{answer.status} {answer.problem}")
        with self._objections():
            self._seen(what, answer)
        generation = int(answer.headers.get("secrets-generation", "0"))
        return Read(
            at=at,
            took=took,
            what=what,
            age=float(answer.headers["age"]) if "age" in answer.headers else None,
            stale="secrets-stale" in answer.headers,
            version=answer.headers["etag"].strip('"'),
            generation=generation,
            digest=hashlib.sha256(answer.body).hexdigest()[:16],
        )

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._over.wait(0.03)
            for what in (*self._names, "bundle"):  # also once more at the end: how it ends is in the table
                self.reads.append(self.read(what))

    @contextlib.contextmanager
    def _objections(self) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            self.wrong.append(str(error))

    @property
    def gaps(self) -> list[Read]:
        """Every read that got no value."""
        return [read for read in self.reads if read.gap]

    def of(self, what: str) -> list[Read]:
        """Return the reads of one name that got a value."""
        return [read for read in self.reads if read.what == what and not read.gap]

    def summary(self) -> dict[str, Any]:
        """Return the table in a few numbers."""
        good = [read for read in self.reads if not read.gap]
        ages = [read.age for read in good if read.age is not None]
        why = sorted({gap.gap for gap in self.gaps})
        return {
            "agent's hours": round((self.reads[-1].at if self.reads else 0.0) / 3600, 2),
            "reads": len(self.reads),
            "gaps": {reason: sum(gap.gap == reason for gap in self.gaps) for reason in why},
            "longest wait s": round(max((read.took for read in self.reads), default=0.0), 3),
            "oldest s": round(max(ages, default=0.0)),
            "stale": sum(read.stale for read in good),
            "versions": len({(read.what, read.version) for read in good if read.what != "bundle"}),
            "last generation": good[-1].generation if good else None,
        }

    def write(self, path: Path) -> None:
        """Write the table, one read a line, as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            for read in self.reads:
                file.write(json.dumps(asdict(read)) + "\n")
