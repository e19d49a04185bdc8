"""What the doors may look at: one object, written by the daemon and the refresher, read by everybody else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.serve.http.traffic import Traffic

if TYPE_CHECKING:
    from agent.config.model import Config
    from agent.core.access import Grant
    from agent.core.errors import Failure
    from agent.serve.store.store import Store
    from common.names import SecretName


@dataclass(slots=True)
class Health:
    """How the cycles go. Written by the refresher, and the last three by the publisher, only.

    Moments are on the boot clock, in seconds.

    ``calls`` by (service, outcome); ``poll_interval`` is the one in force, perhaps stretched (s).
    """

    next_attempt: float | None = None
    failure: Failure | None = None
    failures: int = 0
    cycles: int = 0
    cycles_failed: int = 0
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    poll_interval: float | None = None
    last_cycle: float | None = None
    timings: dict[str, float] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    list_refused: bool = False
    warnings: tuple[str, ...] = ()
    configuration_error: str | None = None
    credential_expires: float | None = None  # Unix time (s); None: never, or unknown
    confirmed: float | None = None
    denied_since: float | None = None
    lost: frozenset[SecretName] = frozenset()  # listed without a value, where the snapshot does not say so


@dataclass(slots=True)
class BeaconStatus:
    """How the watch over the beacon goes; written by agent/serve/sync/beacon_watch.py only.

    Moments are on the boot clock (s). ``state``, since ``since``: off, starting, watching or failing.
    ``watched``: a process looks now, and would have told of a failure. ``seen``: the last look that was
    told to be good. ``events`` counts looks, logins, changes, failures, polls that a change has caused and
    those of them that were postponed.
    """

    state: str = "off"
    since: float | None = None
    watched: bool = False
    seen: float | None = None
    changed: float | None = None
    next_look: float | None = None
    poll_at: float | None = None
    failures: int = 0
    failure: Failure | None = None
    events: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class LookUps:
    """How asking for users and groups goes; written by agent/serve/sync/account_finder.py only.

    ``late_since``: since when the system owes an answer (boot clock, s), None where it does not. ``unsure``:
    about whom nobody could tell at the last look-up, ``why`` the reason. ``unknown``: about whom the system
    has never said anything.
    """

    late_since: float | None = None
    unsure: tuple[str, ...] = ()
    why: str = ""
    unknown: tuple[str, ...] = ()


@dataclass(slots=True)
class AcknowledgementStatus:
    """What the container says about what is served; written by agent/serve/sync/acknowledging.py only.

    ``generation`` was acknowledged last, with ``digest``, ``at`` (Unix time, s) which it was seen first.
    ``problem`` is why the last cycle could not do it, "" where it could.
    """

    digest: str | None = None
    generation: int | None = None
    at: float | None = None
    problem: str = ""


@dataclass(slots=True)
class State:
    """The running agent. ``started`` is a moment on the boot clock (s).

    ``config``, ``grants`` and ``admins``, the administrators' group id, are replaced together when a reload
    succeeds, and the latter two when serve/sync/account_finder.py, which ``look_ups`` is of, finds other ids;
    ``stopping`` is set once. ``warnings`` are what is odd about the machine and the configuration.
    ``missing_sockets`` are those that systemd has not made (agent/serve/missing.py), from the start on.
    ``health`` is the refresher's, ``traffic`` the doors' own, ``beacon`` that of serve/sync/beacon_watch.py,
    ``acknowledgement`` that of serve/sync/acknowledging.py.
    """

    config: Config
    grants: tuple[Grant, ...]
    store: Store
    started: float
    stopping: bool = False
    warnings: tuple[str, ...] = ()
    admins: int | None = None
    missing_sockets: tuple[str, ...] = ()
    health: Health = field(default_factory=Health)
    look_ups: LookUps = field(default_factory=LookUps)
    traffic: Traffic = field(default_factory=Traffic)
    beacon: BeaconStatus = field(default_factory=BeaconStatus)
    acknowledgement: AcknowledgementStatus = field(default_factory=AcknowledgementStatus)
