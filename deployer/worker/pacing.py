"""How fast Barbican is asked: so many calls a second, with a burst, over all tasks of this worker.

After an outage everything is due at once; the bucket spreads it, instead of making the next outage. What a
person waits for in an emergency does not wait for it. Every call is made with the lease of its VPS only.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keystoneauth1.session import Session


class _Turn(threading.local):
    """What this thread does now."""

    hold: Callable[[], None] | None = None
    hurries = False


_TURN = _Turn()


@contextlib.contextmanager
def turn(hold: Callable[[], None]) -> Iterator[None]:
    """Have ``hold`` called before each call of this thread; it raises where there must be none."""
    _TURN.hold, _TURN.hurries = hold, False
    try:
        yield
    finally:
        _TURN.hold, _TURN.hurries = None, False


def hurry() -> None:
    """Let the calls of this turn not wait: it is an emergency. They are counted all the same."""
    _TURN.hurries = True


class Pace:
    """A token bucket: ``burst`` calls at once, then ``rate`` a second."""

    def __init__(
        self,
        rate: float,
        burst: int,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._level = float(burst)
        self._now, self._sleep = now, sleep
        self._at = now()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Wait for this call's turn."""
        with self._lock:
            now = self._now()
            self._level = min(self._burst, self._level + (now - self._at) * self._rate) - 1.0
            self._at = now
            pause = -self._level / self._rate
        if pause > 0 and not _TURN.hurries:
            self._sleep(pause)


class PacedSession:
    """A session of keystoneauth1 whose requests wait for their turn."""

    def __init__(self, session: Session, pace: Pace) -> None:
        self._session = session
        self._pace = pace

    def request(self, url: str, method: str, **request: Any) -> Any:
        """Make one request, as the session does.

        Raises:
            LeaseLostError: its VPS is another worker's by now. DatabaseError: nobody knows.
        """
        self._pace.wait()
        if _TURN.hold is not None:
            _TURN.hold()
        return self._session.request(url, method, **request)
