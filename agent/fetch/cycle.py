"""One cycle: log in or go on with the former token, read the container, read what is new.

Owns everything of the cycle and dies with it. Invariants: a quiet cycle is one request; with k new versions
it is at most 2k + 1 to Barbican, and k + 2 where metadata are listed; what serve serves anew and wants to be
acknowledged costs two more, in a cycle that reads nothing new. What goes on in the container meanwhile
is for the next cycle (see Reading in agent/core/rotation.py).
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from keystoneauth1.session import Session

from agent import __version__
from agent.core.errors import Step
from agent.core.rotation import Reading, has_double
from agent.core.wire import MAX_ACKNOWLEDGED, MAX_TOKEN_STATE, PHASES, Reply
from agent.core.wire_fields import FAILURE_CHARACTERS, no_calls
from agent.fetch import acknowledge, barbican, classify, expiry, login, notices, token_state, tunnel
from agent.fetch.acknowledge import Consumers
from agent.fetch.token_state import Expiry, TokenState
from agent.fetch.transport import Transport, late
from agent.fetch.unsealing import Unsealer
from common import untrusted_json
from common.sealed import SealError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agent.config.model import Config
    from agent.core.errors import Failure
    from agent.core.wire import Request
    from agent.fetch.barbican import Listing
    from agent.fetch.outcome import Outcome
    from common.names import SecretName, Version

EXPIRY_WITHIN_S: Final = 3.0
"""How long a reading that is done waits for what is only good to know."""


class Cycle:
    """Makes one cycle in one thread; :meth:`overdue` may be called by another when time is up."""

    def __init__(self, config: Config, request: Request, began: float) -> None:
        """``began`` is when the request came, on the monotonic clock (s)."""
        self._config = config
        self._request = request
        # a little less than what the request allows, so that the answer still says what was waited for
        self._deadline = began + request.timeout - min(1.0, request.timeout / 10)
        self._timings = dict.fromkeys(PHASES, 0.0)
        self._transport: Transport | None = None
        self._login: login.Login | None = None
        self._outcome: Outcome | None = None
        self._listing: Listing | None = None
        self._reading: Reading | None = None
        self._expiry = Expiry()
        self._ask_expiry: Callable[[Expiry], Expiry] | None = None
        self._consumers: Consumers | None = None
        self._acknowledged: tuple[str, ...] = ()
        self._acknowledge_problem = ""

    def run(self) -> Reply:
        """Make the cycle; every error becomes a failure reply."""
        failure = None
        try:
            self._reading = self._read()
        except Exception as error:  # noqa: BLE001  # the edge: nothing of a library's error may leave
            failure = classify.failure(error, self._transport.answer if self._transport else None)
        self._announce_key()
        self._acknowledge()
        self._learn_expiry()
        return self._reply(self._reading, failure)

    def overdue(self) -> Reply:
        """Return the reply for when the time is up and :meth:`run` has not returned."""
        if self._reading is not None:
            return self._reply(self._reading, None)
        tried = (self._transport and self._transport.tried) or "log in to Keystone"
        return self._reply(None, late(tried))

    def _read(self) -> Reading:
        prepared = self._login = login.prepare(self._config.keystone, os.environ)
        way = tunnel.way(self._config.keystone.proxy, os.environ)
        transport = self._transport = Transport(prepared.auth_url, self._config.fetch, self._deadline, way)
        session = Session(
            auth=prepared.plugin,
            session=transport.session(),
            verify=prepared.ca_file or True,
            user_agent=f"vps-secrets-agent/{__version__}",
            redirect=False,
        )
        self._timings["start"] = _since_exec()
        with self._timed("login"):
            kept = token_state.decode(self._request.token_state, prepared.holder)
            login.adopt(prepared, kept)
            self._expiry = kept.expiry
            former = prepared.plugin.auth_ref
            base = self._endpoint(prepared, session)
        if prepared.plugin.auth_ref is not former:
            login.allow_for(prepared, transport.skew or 0.0)
            self._ask_expiry = lambda known: expiry.learn(prepared, session, known, time.time())
        with self._timed("list"):
            listing = self._listing = barbican.read_listing(session, base, self._config)
        self._acknowledged = listing.acknowledged
        self._consumers = Consumers(
            session,
            f"{base}/v1/containers/{self._config.container.id}/consumers",
            prepared.plugin.auth_ref.auth_token,
            transport,
        )
        wanted = self._wanted(listing)
        if not wanted:
            return Reading(listing.entries)
        with self._timed("payloads"):
            outcome = self._outcome = self._read_payloads(session, base, wanted)
        unread = {version: unreadable.reason for version, unreadable in outcome.unread.items()}
        return Reading(listing.entries, outcome.read, unread)

    def _endpoint(self, prepared: login.Login, session: Session) -> str:
        """Log in where that is needed, and return where Barbican is."""
        keystone = self._config.keystone
        access = prepared.plugin.get_access(session)
        untrusted_endpoint = keystone.endpoint_override or access.service_catalog.url_for(
            service_type=keystone.service_type, interface=prepared.interface, region_name=prepared.region
        )
        return barbican.base_of(str(untrusted_endpoint), prepared.auth_url)

    def _acknowledge(self) -> None:
        """Say what is served, unless what was read is going to replace it; the reading is done."""
        serves, consumers = self._request.serves, self._consumers
        if serves is None or consumers is None or self._reading is None or self._reading.read:
            return
        consumers.transport.hurry(acknowledge.WITHIN_S)
        of_the_key, self._acknowledge_problem = (
            self._acknowledge_problem,
            acknowledge.NO_ANSWER,
        )  # as long as so
        self._acknowledged, problem = acknowledge.acknowledge(consumers, serves, self._acknowledged)
        self._acknowledge_problem = of_the_key or problem

    def _announce_key(self) -> None:
        """Say to which key values are to be sealed, where the container has lost that, or never had it."""
        listing, consumers = self._listing, self._consumers
        if listing is None or consumers is None or listing.has_key or not self._config.fetch.acknowledge:
            return
        try:
            key = self._unsealer().announcement()
        except SealError as error:
            self._acknowledge_problem = str(error)
            return
        if key is not None:
            consumers.transport.hurry(acknowledge.WITHIN_S)
            self._acknowledge_problem = acknowledge.announce(consumers, key)

    def _unsealer(self) -> Unsealer:
        return Unsealer(self._config.vps_id, self._config.fetch.sealing_key_file, os.environ)

    def _learn_expiry(self) -> None:
        """Ask after a login, however the reading ended; it is done, so nothing of it can be lost now."""
        if self._ask_expiry is not None and self._transport is not None:
            self._transport.hurry(EXPIRY_WITHIN_S)
            known = self._expiry
            self._expiry = replace(known, problem="Keystone did not answer it")  # as long as that is so
            with contextlib.suppress(Exception):  # whatever Keystone says
                self._expiry = self._ask_expiry(known)

    def _wanted(self, listing: Listing) -> dict[Version, frozenset[SecretName]]:
        """Return the versions to read now, each with the names under which it is listed."""
        if has_double(listing.entries) and not self._request.reads_doubles:
            return {}
        wanted: dict[Version, frozenset[SecretName]] = {}
        for entry in listing.entries:
            if entry.version not in self._request.known:
                wanted[entry.version] = wanted.get(entry.version, frozenset()) | {entry.name}
        return wanted

    def _read_payloads(
        self, session: Any, base: str, wanted: Mapping[Version, frozenset[SecretName]]
    ) -> Outcome:
        from agent.fetch import payloads  # noqa: PLC0415  # barbicanclient is loaded only when needed

        assert self._transport is not None  # noqa: S101  # _read made it
        config = self._config
        source = payloads.Source(
            session, base, config.vps_id, self._transport, config.fetch, self._unsealer()
        )
        return payloads.read_payloads(source, wanted)

    def _reply(self, reading: Reading | None, failure: Failure | None) -> Reply:
        outcome = self._outcome if reading else None
        kept = self._token_state(failure)
        return Reply(
            nonce=self._request.nonce,
            vps_id=self._config.vps_id,
            container=self._config.container.id,
            reading=reading,
            failure=failure and _told(failure),
            payloads=outcome.payloads if outcome else {},
            rejected=notices.bounded(self._listing.rejected if self._listing else ()),
            notices=notices.of_cycle(
                self._config.vps_id,
                self._listing,
                outcome,
                token_bytes=len(kept),
                skew=self._transport.skew if self._transport else None,
                expiry=self._expiry.problem,
            ),
            listed=self._outcome.listed if self._outcome else None,
            calls=self._transport.calls() if self._transport else no_calls(),
            timings=dict(self._timings),
            token_state=kept if len(kept) <= MAX_TOKEN_STATE else b"",
            credential_expires=self._expiry.at,
            acknowledged=self._acknowledged[:MAX_ACKNOWLEDGED],
            acknowledge_problem=untrusted_json.printable(self._acknowledge_problem, FAILURE_CHARACTERS),
        )

    def _token_state(self, failure: Failure | None) -> bytes:
        """Return what the next cycle goes on with; a catalog that is of no use is asked for again."""
        if self._login is None or (failure is not None and failure.step is Step.CATALOG):
            return b""
        state = TokenState(login.give_back(self._login), self._expiry)
        return token_state.encode(state, self._login.holder)

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._timings[phase] += time.monotonic() - began


def _told(failure: Failure) -> Failure:
    """Return the failure with texts that the wire takes: paths and addresses in them may be anything."""
    return replace(
        failure,
        tried=untrusted_json.printable(failure.tried, FAILURE_CHARACTERS),
        advice=untrusted_json.printable(failure.advice, FAILURE_CHARACTERS),
    )


def refused(request: Request, failure: Failure, vps_id: str = "", container: str = "") -> Reply:
    """Return a failure reply of a program that could not make a cycle."""
    timings = dict.fromkeys(PHASES, 0.0)
    return Reply(request.nonce, vps_id, container, None, failure, timings=timings)


def _since_exec() -> float:
    """Return the seconds since this process was started (proc_pid_stat(5), field 22), or 0 if unknown."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:  # noqa: PTH123  # not a path of ours
            ticks = int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
