"""One cycle as serve sees it: send a request to the fetch program, check its reply, or tell what failed.

With systemd the program is behind ``fetch.sock``, one process per connection. Without, serve starts it with
one end of a socket pair: the same protocol (agent/core/wire.py). Nothing that comes back is trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from typing import TYPE_CHECKING, Final, TypeVar

from agent.core import wire, wire_watch
from agent.core.errors import CloudError, Failure, Fault, Step, WireError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agent.config.model import Config
    from agent.core.wire_watch import Watch, WatchResult

T = TypeVar("T")

MARGIN_S: Final = 5.0
"""How much longer than the cycle itself serve waits, for the start of a process and the reply's way."""

_PROGRAM: Final = "import sys; sys.path[:] = {}; from agent.fetch.__main__ import main; sys.exit(main())"
"""With serve's own directories, whatever this machine's site packages are."""
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "TZ", "CREDENTIALS_DIRECTORY")
_JOURNAL: Final = "journalctl -u 'vps-secrets-fetch@*' says why"
_ENDED: Final = (
    f"{_JOURNAL}; 243/CREDENTIALS there: it can't decrypt the credential, run vps-secrets setup --replace"
)


async def fetch(request: wire.Request, config: Config) -> wire.Reply:
    """Return the checked reply to one request.

    Raises:
        CloudError: the program could not be reached, took too long, or did not answer as it must.
    """
    untrusted = await _ask(wire.encode_request(request), wire.REPLY, request.timeout, config)
    return _checked(lambda: wire.decode_reply(untrusted, request, config.vps_id, config.container.id), config)


async def watch(request: Watch, config: Config) -> WatchResult:
    """Return the checked reply to a watch over the beacon: when something is seen, or its lifetime is over.

    Raises:
        CloudError: as :func:`fetch`.
    """
    longest = request.lifetime + wire_watch.LOOK_S
    untrusted = await _ask(wire_watch.encode_watch(request), wire_watch.SIGHT, longest, config)
    return _checked(lambda: wire_watch.decode_sight(untrusted, request), config)


def _tried(config: Config) -> str:
    if config.fetch.socket is not None:
        return f"reach the fetch program at {config.fetch.socket}"
    return "start the fetch program"


def _checked(decode: Callable[[], T], config: Config) -> T:
    reason = ""
    try:
        return decode()
    except WireError as error:
        reason = f"its reply was refused: {error}"
    raise CloudError(Failure(Step.FETCH, Fault.TRANSIENT, _tried(config), reason))


async def _ask(message: bytes, expected: wire.Bounds, longest: float, config: Config) -> bytes:
    """Send a request, and return the whole message that comes back within ``longest`` (s) and a margin."""
    reason = ""
    try:
        async with asyncio.timeout(longest + MARGIN_S):
            return await _exchange(message, expected, config)
    except TimeoutError:
        reason = f"it gave no reply within {longest + MARGIN_S:g} s; {_JOURNAL}"
    except (asyncio.IncompleteReadError, ConnectionResetError, BrokenPipeError):
        reason = f"it ended without a whole reply; {_ENDED}"
    except WireError as error:
        reason = f"its reply was refused: {error}"
    except OSError as error:
        reason = f"{error.strerror or 'no connection'}; see systemctl status vps-secrets-fetch.socket"
    raise CloudError(Failure(Step.FETCH, Fault.TRANSIENT, _tried(config), reason))


async def _exchange(message: bytes, expected: wire.Bounds, config: Config) -> bytes:
    async with _connection(config) as (reader, writer):
        writer.write(message)
        await writer.drain()
        writer.write_eof()
        untrusted_prefix = await reader.readexactly(wire.PREFIX_BYTES)
        untrusted_rest = await reader.readexactly(wire.remaining(untrusted_prefix, expected))
        if await reader.read(1):
            raise WireError("there is more after the message's end")
        return untrusted_prefix + untrusted_rest


@contextlib.asynccontextmanager
async def _connection(config: Config) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to the program, or start it; at the end the connection is closed and the process is gone."""
    async with contextlib.AsyncExitStack() as stack:
        if config.fetch.socket is not None:
            reader, writer = await asyncio.open_unix_connection(config.fetch.socket)
        else:
            ours, theirs = socket.socketpair()
            stack.callback(ours.close)
            with theirs:
                process = await _start(config, theirs)
            stack.push_async_callback(_end, process)
            reader, writer = await asyncio.open_connection(sock=ours)
        stack.callback(writer.transport.abort)
        yield reader, writer


async def _start(config: Config, end: socket.socket) -> asyncio.subprocess.Process:
    fd = config.keystone.credential.fd
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-IS", "-c", _PROGRAM.format(repr(sys.path)), "--config", str(config.path)),
        stdin=end.fileno(),
        stdout=end.fileno(),
        pass_fds=() if fd is None else (fd,),
        env={key: os.environ[key] for key in _ENVIRONMENT if key in os.environ},
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Wait for a program that has replied; kill one that has not."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await process.wait()
            return
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
