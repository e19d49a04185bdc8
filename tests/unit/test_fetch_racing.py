"""agent/fetch/racing.py: connecting where some addresses are dead, over real sockets on loopback."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from agent.fetch import racing
from lab.testbed.fakes.dead import DeadAddresses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.fetch.racing import Place

LIVE = "127.0.0.9"


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a listener at LIVE."""
    with socket.create_server((LIVE, 0), backlog=50) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Have the system's resolver, which is not ours, give these addresses in this order."""

    def give(hosts: list[str]) -> None:
        def getaddrinfo(_: str, port: int, **__: object) -> list[tuple[object, ...]]:
            families = [socket.AF_INET6 if ":" in host else socket.AF_INET for host in hosts]
            return [(family, 1, 6, "", (host, port)) for family, host in zip(families, hosts, strict=True)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return give


@pytest.mark.parametrize(
    "dead", [[], ["127.0.0.2"], ["::1"], ["::1", "127.0.0.2"], ["127.0.0.2", "127.0.0.3"]]
)
def test_the_address_that_answers_is_taken(
    resolver: Callable[[list[str]], None], port: int, dead: list[str]
) -> None:
    """Wherever it stands in the list; dead ones cost their turn, not their time-out."""
    hosts = [*dead, LIVE]
    resolver(hosts)
    with DeadAddresses(dead, port), racing.connect("service.test", port, 60) as made:
        assert made.getpeername()[:2] == (LIVE, port)
        assert made.gettimeout() == 60
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_addresses_that_refuse_are_passed_over(resolver: Callable[[list[str]], None], port: int) -> None:
    """At once; so are those that can't be tried at all, as of a family without a route."""
    resolver(["127.0.0.2", "2001:db8::1", "127.0.0.3", LIVE])
    with racing.connect("service.test", port, 60) as made:
        assert made.getpeername()[0] == LIVE


def test_when_every_address_is_dead(resolver: Callable[[list[str]], None], port: int) -> None:
    """One time-out bounds all of them."""
    dead = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    resolver(dead)
    with DeadAddresses(dead, port), pytest.raises(TimeoutError):
        racing.connect("service.test", port, 0.5)


def test_when_every_address_refuses(resolver: Callable[[list[str]], None], port: int) -> None:
    """The first one's error is told."""
    resolver(["127.0.0.2", "127.0.0.3"])
    with pytest.raises(ConnectionRefusedError) as caught:
        racing.connect("service.test", port, 60)
    assert caught.value.errno == errno.ECONNREFUSED


def test_a_name_without_addresses(resolver: Callable[[list[str]], None]) -> None:
    """It is an error like any other."""
    resolver([])
    with pytest.raises(OSError, match="address"):
        racing.connect("service.test", 1, 1)


def test_no_descriptor_is_left(resolver: Callable[[list[str]], None], port: int) -> None:
    """Neither of those that lose nor of those that fail."""
    resolver(["127.0.0.2", "127.0.0.3", "::1", LIVE])
    with DeadAddresses(["127.0.0.2"], port):
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # of this process
        racing.connect("service.test", port, 60).close()
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def places(text: str) -> list[Place]:
    """Return places by family: 6 or 4, each with its index as its address."""
    return [
        (socket.AF_INET6 if family == "6" else socket.AF_INET, (index,)) for index, family in enumerate(text)
    ]


@pytest.mark.parametrize(
    ("given", "order"),
    [("", []), ("6", [0]), ("6644", [0, 2, 1, 3]), ("44466", [0, 3, 1, 4, 2]), ("6664", [0, 3, 1, 2])],
)
def test_families_take_turns(given: str, order: list[int]) -> None:
    """The system's first choice first, then the other family's (RFC 8305, section 4)."""
    assert [address[0] for _, address in racing.interleaved(places(given))] == order
