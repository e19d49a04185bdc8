"""``python -m agent.fetch --config PATH``: one request on standard input, one reply on standard output.

A request is for a reading of Barbican, or for a watch over the beacon, which is replied to when it ends.
Both may be the same socket. Lines for the journal go to standard error, never with a value. Exit status: 0 a
reply was written, also one of a failure; 1 none could be written; 2 usage; 78 the configuration is bad.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import resource
import select
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.config import reader as configuration
from agent.core import wire, wire_watch
from agent.core.errors import CloudError, Failure, Fault, Step, WireError
from agent.core.wire_fields import SERVICES
from agent.core.wire_watch import Watch, WatchResult
from common.errors import ConfigurationError

if TYPE_CHECKING:
    from agent.config.model import Config
    from agent.core.wire import Reply, Request

LOG: Final = logging.getLogger("agent.fetch")
_REQUEST_WITHIN_S: Final = 10.0
_STDIN, _STDOUT = 0, 1
_LIBRARIES: Final = ("keystoneauth", "keystoneauth1", "barbicanclient", "urllib3", "requests", "stevedore")

EXIT_REPLIED, EXIT_FAILED, EXIT_CONFIGURATION = 0, 1, 78


def main(arguments: list[str] | None = None) -> int:
    """Answer one request and return the exit status."""
    parser = argparse.ArgumentParser(prog="vps-secrets-fetch", description=__doc__)
    parser.add_argument("--config", type=Path, default=configuration.DEFAULT_PATH, metavar="PATH")
    parser.add_argument("--trial", action="store_true", help="one reading, reported without a value")
    options = parser.parse_args(arguments)
    path = options.config
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _log_to_stderr()
    sys.excepthook = lambda kind, *_: _uncaught(kind)
    threading.excepthook = lambda uncaught: _uncaught(uncaught.exc_type)
    if options.trial:
        return _try(path)
    try:
        request = _decode(_read_message())
    except (WireError, OSError) as error:
        LOG.error("no request: %s", error)  # noqa: TRY400  # no traceback: it could show what was read
        return EXIT_FAILED
    began = time.monotonic()
    try:
        config = configuration.load(path, passing_over=_not_needed(request))
    except ConfigurationError as error:
        LOG.error("%s", error)  # noqa: TRY400  # every mistake, no value, no traceback
        return EXIT_CONFIGURATION if _write(_misconfigured(request, path)) else EXIT_FAILED
    LOG.setLevel(config.log.level.upper())
    if isinstance(request, Watch):
        return _watch(config, request)
    return _cycle(config, request, began)


def _try(path: Path) -> int:
    """Read once for ``vps-secrets setup``, which has started this with a limit on its time."""
    gc.disable()  # as in _cycle
    from agent.fetch import trial  # noqa: PLC0415  # keystoneauth1 is heavy, and no watch needs it

    try:
        config = configuration.load(path, passing_over=configuration.NOT_FETCH)
    except ConfigurationError as error:
        LOG.error("%s", error)  # noqa: TRY400  # every mistake, no value, no traceback
        return EXIT_CONFIGURATION
    return EXIT_REPLIED if _write(trial.report(config).encode()) else EXIT_FAILED


def _decode(message: bytes) -> Request | Watch:
    if wire_watch.bounds_of(message) is wire_watch.WATCH:
        return wire_watch.decode_watch(message)
    return wire.decode_request(message)


def _not_needed(request: Request | Watch) -> frozenset[str]:
    return configuration.NOT_WATCH if isinstance(request, Watch) else configuration.NOT_FETCH


def _watch(config: Config, asked: Watch) -> int:
    """Watch the beacon, and tell how that ended."""
    from agent.fetch import beacon, tunnel  # noqa: PLC0415  # http.client is nothing to a reading

    if config.beacon is None:
        failure = _no_configuration("watch the beacon", "beacon.url is not set any more: reload the agent")
        return _told(WatchResult(asked.nonce, None, failure, 0, 0))
    tokens = None
    try:
        way = tunnel.way(config.keystone.proxy, os.environ)
        if config.beacon.auth == "keystone":
            from agent.fetch.token import (  # noqa: PLC0415  # keystoneauth1 is heavy, in a process that stays
                Token,
            )

            tokens = Token(config, config.beacon.url, asked.token_state, way)
    except CloudError as error:
        return _told(WatchResult(asked.nonce, None, error.failure, 0, 0))
    sight = beacon.watch(beacon.Beacon(config, tokens, way), asked, _has_gone, tokens)
    status = EXIT_REPLIED if sight is None else _told(sight)
    if threading.active_count() > 1:
        sys.stderr.flush()
        os._exit(status)  # a look hangs in foreign code
    return status


def _told(sight: WatchResult) -> int:
    if sight.failure is not None:
        LOG.debug("%s", sight.failure)  # serve warns, once for many
    return EXIT_REPLIED if _write(wire_watch.encode_sight(sight)) else EXIT_FAILED


def _has_gone(seconds: float) -> bool:
    """Wait, and tell whether serve has closed its end: nobody waits for a reply then."""
    poller = select.poll()
    poller.register(_STDOUT, 0)  # POLLHUP and POLLERR only: the end of the request is no news
    return bool(poller.poll(seconds * 1000))


def _cycle(config: Config, request: Request, began: float) -> int:
    """Make the cycle in a thread of its own, so that nothing (DNS has no timeout) outlasts the deadline."""
    gc.disable()  # this process ends with its cycle: to look for garbage is a sixth of the imports' time
    from agent.fetch.cycle import Cycle, refused  # noqa: PLC0415  # when the configuration is bad

    cycle = Cycle(config, request, began)
    replies: list[Reply] = []
    worker = threading.Thread(target=lambda: replies.append(cycle.run()), name="cycle", daemon=True)
    worker.start()
    worker.join(max(0.0, began + request.timeout - time.monotonic()))
    reply = replies[0] if replies else cycle.overdue()
    try:
        encoded = wire.encode_reply(reply, request.known)
    except WireError as error:  # serve would refuse it whole: tell why instead
        failure = Failure(Step.FETCH, Fault.TRANSIENT, "compose the reply", str(error))
        reply = refused(request, failure, config.vps_id, config.container.id)
        encoded = wire.encode_reply(reply)
    _report(reply)
    status = EXIT_REPLIED if _write(encoded) else EXIT_FAILED
    if worker.is_alive():
        sys.stderr.flush()
        os._exit(status)  # its threads hang in foreign code: nothing of theirs is waited for
    return status


def _report(reply: Reply) -> None:
    if reply.failure is not None:
        LOG.error("%s", reply.failure)
    elif reply.reading is not None:
        reading = reply.reading
        LOG.info(
            "%d entries, %d read, %d unread, %d refused; %d calls to Keystone, %d to Barbican",
            *(len(reading.entries), len(reading.read), len(reading.unread), len(reply.rejected)),
            *(sum(reply.calls[service].values()) for service in SERVICES),
        )
        for notice in reply.notices:
            LOG.warning("%s", notice)
        if reply.listed is False:
            LOG.warning("Barbican did not give the list of metadata (fetch.list_metadata)")


def _misconfigured(request: Request | Watch, path: Path) -> bytes:
    advice = "vps-secrets-agent --check-config names every mistake; Barbican is not read until they are fixed"
    failure = _no_configuration(f"read {ascii(str(path))[:300]}", advice)
    if isinstance(request, Watch):
        return wire_watch.encode_sight(WatchResult(request.nonce, None, failure, 0, 0))
    from agent.fetch.cycle import refused  # noqa: PLC0415  # as in _cycle

    return wire.encode_reply(refused(request, failure))


def _no_configuration(tried: str, advice: str) -> Failure:
    return Failure(Step.CONFIGURATION, Fault.TRANSIENT, tried, advice)


def _read_message() -> bytes:
    """Return the request, however it arrives.

    Raises:
        WireError: it is none, or does not come within ten seconds.
    """
    deadline = time.monotonic() + _REQUEST_WITHIN_S
    prefix = _read_exactly(wire.PREFIX_BYTES, deadline)
    return prefix + _read_exactly(wire.remaining(prefix, wire_watch.bounds_of(prefix)), deadline)


def _read_exactly(wanted: int, deadline: float) -> bytes:
    received = bytearray()
    poller = select.poll()
    poller.register(_STDIN, select.POLLIN)
    while len(received) < wanted:
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise WireError("the request does not arrive")
        part = os.read(_STDIN, wanted - len(received))
        if not part:
            raise WireError("the request is truncated")
        received += part
    return bytes(received)


def _write(encoded: bytes) -> bool:
    """Write the reply; tell whether it was taken."""
    view = memoryview(encoded)
    with contextlib.suppress(OSError):
        while view:
            view = view[os.write(_STDOUT, view) :]
        return True
    LOG.error("nobody takes the reply")
    return False


def _uncaught(kind: type[BaseException]) -> None:
    """Tell of a bug by its type: texts and tracebacks of libraries may hold whole requests."""
    LOG.error("ended by a bug, report it: %s", kind.__name__)


def _log_to_stderr() -> None:
    """Log our own lines; other libraries' hold addresses and bodies, and what matters is translated."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("fetch: %(levelname)s: %(message)s"))
    LOG.addHandler(handler)
    LOG.propagate = False
    logging.getLogger().addHandler(logging.NullHandler())
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main())
