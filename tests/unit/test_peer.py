"""Which unit a caller is in, where the kernel can't say or says it with a high number."""

from __future__ import annotations

import errno
import os
import resource
import socket
from typing import TYPE_CHECKING, cast

import pytest

from agent.serve.host import peer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _in_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever process has the pid is in the unit."""
    monkeypatch.setattr(peer, "unit_in", lambda _: "app.service")


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Every number that select(2) takes is in use."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, before[1]))
    used = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    yield
    for fd in used:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class _Without:
    """A connection on which the kernel gives no pidfd."""

    def __init__(self, number: int) -> None:
        self._number = number

    def getsockopt(self, *_: object) -> int:
        """Fail."""
        raise OSError(self._number, "")


def _unit_without(number: int) -> str | None:
    pid = os.getpid()
    return peer._unit(cast("socket.socket", _Without(number)), pid, peer._started(pid))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ESRCH, errno.ENODATA, errno.EMFILE])
def test_a_caller_that_has_ended_is_in_no_unit(number: int) -> None:
    """Another process may have its pid: Linux 6.5 to 6.15 gives no pidfd of one that was waited for."""
    assert _unit_without(number) is None


def test_a_kernel_without_pidfds_of_peers_is_served() -> None:
    """Before Linux 6.5 the start time has to do."""
    assert _unit_without(errno.ENOPROTOOPT) == "app.service"


@pytest.mark.usefixtures("many_descriptors")
def test_the_unit_is_found_with_many_connections() -> None:
    """Past 1023 descriptors too."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert ours.fileno() > 1023
        found = peer.of(ours)
        assert found is not None
        assert peer.with_unit(ours, found, peer.pin(found.pid)).unit == "app.service"
