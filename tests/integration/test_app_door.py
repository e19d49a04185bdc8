"""The app socket of the real daemon: every request, every refusal, one audit record each."""

from __future__ import annotations

import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from agent.core.rotation import Unread
from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import Agent, Caller, UnixConnection, ask, fake_configuration, raw

if TYPE_CHECKING:
    from collections.abc import Iterator

GRANTS = """
[app.limits]
header_timeout = "500ms"
idle_timeout = "2s"
connections = 1100
connections_per_uid = 1100
[[grant]]
user = "root"
secrets = ["*"]
[[grant]]
user = "nobody"
secrets = ["PUBLIC*"]
[[grant]]
group = "games"
secrets = ["GAME?"]
[[grant]]
user = "there-is-no-such-user"
secrets = ["*"]
"""
BAD_NAMES = (
    *("", ".", "..", "a/b", "../JWT_SECRET", "-a", "a" * 201),
    *("JWT%5FSECRET", "a%00", "%2e%2e", "a%2Fb", "JWT_SECRET/"),
)
NOBODY = Caller(65534, 65534)
GAMES = Caller(65533, 65533, (60,))  # games is group 60 of every Debian


class Running:
    """An agent with seven names, shared by the tests of this module that do not change them."""

    def __init__(self) -> None:
        self.world = World()
        for name in ("JWT_SECRET", "PUBLIC_KEY", "GAME1", "a.b-c_d"):
            self.world.put(name, f"value of {name}\n ".encode())
        self.world.put("BINARY", bytes(range(256)))
        self.world.put("EMPTY.", b"")
        pending = self.world.put("PENDING", b"")
        self.world.unread[pending] = Unread.ABSENT
        self.agent = Agent(lambda directory: fake_configuration(directory, self.world, GRANTS)[1])

    def version(self, name: str) -> str:
        """Return the version that the fake container lists for a name."""
        return next(version for listed, version in self.world.entries if listed == name)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One agent for the module."""
    made = Running()
    with made.agent:
        made.agent.start().until_ready()
        yield made


@pytest.fixture
def agent(running: Running) -> Agent:
    """The module's agent."""
    return running.agent


def test_a_secret_is_handed_over_byte_for_byte(running: Running) -> None:
    """With its version, its generation and its age."""
    response = running.agent.get("/v1/secrets/BINARY")
    assert (response.status, response.body == bytes(range(256))) == (200, True)
    assert response.headers["etag"] == f'"{running.version("BINARY")}"'
    assert response.headers["secrets-generation"] == str(running.agent.generation)
    assert response.headers["cache-control"] == "no-store"
    assert int(response.headers["age"]) >= 0
    assert "secrets-stale" not in response.headers
    for name in ("JWT_SECRET", "a.b-c_d"):
        assert (running.agent.get(f"/v1/secrets/{name}").body == f"value of {name}\n ".encode()) is True
    assert running.agent.get("/v1/secrets/EMPTY.").body == b""


@pytest.mark.parametrize(
    ("condition", "status"), [("{}", 304), ("W/{}", 304), ('"x", {}', 304), ("*", 304), ('"x"', 200)]
)
def test_a_version_that_the_caller_has_is_not_sent_again(
    running: Running, condition: str, status: int
) -> None:
    """RFC 9110, 13.1.2."""
    etag = f'"{running.version("JWT_SECRET")}"'
    response = running.agent.get("/v1/secrets/JWT_SECRET", headers={"If-None-Match": condition.format(etag)})
    assert (response.status, bool(response.body)) == (status, status == 200)


def test_the_list_tells_no_value(agent: Agent) -> None:
    """Names, versions, sizes and ages of what the caller may read."""
    response = agent.get("/v1/secrets")
    listed = {secret["name"]: secret for secret in response.json["secrets"]}
    assert sorted(listed) == ["BINARY", "EMPTY.", "GAME1", "JWT_SECRET", "PUBLIC_KEY", "a.b-c_d"]
    assert listed["BINARY"]["size"] == 256
    assert listed["BINARY"]["stale"] is False
    assert (b"value of" in response.body) is False


def test_the_bundle_is_one_snapshot(agent: Agent) -> None:
    """Text as a string, other bytes as base64; its ETag spares a second transfer."""
    response = agent.get("/v1/bundle")
    values = response.json["secrets"]
    assert (values["JWT_SECRET"] == "value of JWT_SECRET\n ") is True
    assert list(values["BINARY"]) == ["base64"]
    assert agent.get("/v1/bundle", headers={"If-None-Match": response.headers["etag"]}).status == 304


@pytest.mark.parametrize(
    ("target", "status", "problem"),
    [
        ("/v1/secrets/MISSING", 404, "no-such-secret"),
        ("/v1/secrets/PENDING", 503, "secret-unavailable"),
        ("/v1/secrets/JWT_SECRET?version=previous", 404, "no-previous-version"),
        ("/v1/secrets/JWT_SECRET?version=first", 400, "bad-parameter"),
        ("/v1/secrets/JWT_SECRET?x=1", 400, "bad-parameter"),
        ("/v1/secrets/JWT_SECRET?version", 400, "bad-parameter"),
        ("/v1/secrets/JWT_SECRET?version=current&version=current", 400, "bad-parameter"),
        *(
            (f"/v1/secrets/{name}", 400, "bad-name")
            for name in ("", ".", "..", "a/b", "../JWT_SECRET", "-a", "a" * 201)
        ),
        *(
            (f"/v1/secrets/{name}", 400, "bad-name")
            for name in ("JWT%5FSECRET", "a%00", "%2e%2e", "a%2Fb", "JWT_SECRET/")
        ),
        ("/v1/watch?after=-1", 400, "bad-parameter"),
        ("/v1/watch?after=x", 400, "bad-parameter"),
        ("/v1/watch?timeout=nan", 400, "bad-parameter"),
        ("/v1/watch?timeout=-1", 400, "bad-parameter"),
        ("/v2/secrets", 404, "no-such-path"),
        ("/", 404, "no-such-path"),
        ("//v1/secrets", 404, "no-such-path"),
        ("/v1/secrets?a=b", 400, "bad-parameter"),
        ("*", 400, "bad-request"),
        ("http://localhost/v2/secrets", 404, "no-such-path"),
        ("http://localhost", 400, "bad-request"),
        ("http:///v1/secrets", 400, "bad-request"),
        ("https://localhost/v1/secrets", 400, "bad-request"),
        ("/" + "a" * 5000, 414, "uri-too-long"),
    ],
)
def test_what_is_not_there_is_refused(agent: Agent, target: str, status: int, problem: str) -> None:
    """Each with its stable problem type, and one audit record."""
    before = len(agent.audit())
    response = agent.get(target)
    assert (response.status, response.problem) == (status, problem)
    assert len(agent.audit()) == before + 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW"])
def test_other_methods_are_refused(agent: Agent, method: str) -> None:
    """405 with the method that works."""
    response = ask(agent.app, method, "/v1/secrets")
    assert response.status == 405
    assert response.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v1/secrets HTTP/1.1\r\n" + b"X: " + b"a" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET /v1/secrets HTTP/1.1\r\n" + b"X: aaaaaaaaaaaaaaaaaaaa\r\n" * 1000 + b"\r\n", b"431"),
        (b"GET /v1/secrets HTTP/1.1\r\n" + b"X: " + b"a" * 15_000 + b"\r\nY: " + b"a" * 15_000, b"431"),
        (b"GET /v1/secrets/a\x00b HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"GET /v1/secrets/\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"GET /v1/secrets HTTP/9.9\r\nHost: a\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"GET /v1/secrets HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", b"413"),
        (b"GET /v1/secrets HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"413"),
        (b"GET /v1/secrets HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n", b"400"),
        (b"GET /v1/secrets HTTP/1.1\nHost: a\n\n", b"400"),
    ],
)
def test_what_is_no_request_is_refused_and_closed(agent: Agent, sent: bytes, status: bytes) -> None:
    """With a problem document, and the agent serves on."""
    received = raw(agent.app, sent, half_close=True)
    assert received.split(b" ")[1].startswith(status)
    assert b"application/problem+json" in received
    assert agent.get("/v1/health/live").status == 200


@pytest.mark.parametrize("host", ["a b", "a/b", "a@b", "a:b", "[::1", "a, b", "a\x7f"])
def test_a_host_that_is_none_is_refused(agent: Agent, host: str) -> None:
    """RFC 9112, 3.2."""
    sent = f"GET /v1/health/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    assert raw(agent.app, sent, half_close=True).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("host", ["localhost", "a:80", "[::1]:8080", "", "x.example."])
def test_absolute_targets_and_health_by_head(agent: Agent, host: str) -> None:
    """RFC 9112, 3.2.2, whatever the host; curl -I on the paths of health."""
    for target in ("/v1/health/live", "http://localhost/v1/health/live"):
        sent = f"HEAD {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        received = raw(agent.app, sent, half_close=True)
        assert received.startswith(b"HTTP/1.1 200 ")
        assert received.endswith(b"\r\n\r\n")


def test_a_caller_without_any_grant_learns_nothing(agent: Agent) -> None:
    """Neither lists nor the state of somebody else's secrets; that the agent lives is no secret."""
    stranger = Caller(65533, 65533)
    for target in ("/v1/secrets", "/v1/bundle", "/v1/watch?timeout=0", "/v1/secrets/..", "/v1/secrets/"):
        assert stranger.ask(agent.app, target) == (403, "not-granted")
    for target in ("/v1/health/live", "/v1/health/ready"):
        assert stranger.ask(agent.app, target) == (200, "")


def test_grants_decide_by_real_uid_and_group(agent: Agent) -> None:
    """Peers with real ids: a name that no grant covers is 403 whether it exists or not."""
    assert NOBODY.ask(agent.app, "/v1/secrets/PUBLIC_KEY") == (200, "")
    assert NOBODY.ask(agent.app, "/v1/secrets/PUBLIC_NONE") == (404, "no-such-secret")
    assert NOBODY.ask(agent.app, "/v1/secrets/JWT_SECRET") == (403, "not-granted")
    assert NOBODY.ask(agent.app, "/v1/secrets/MISSING") == (403, "not-granted")
    assert GAMES.ask(agent.app, "/v1/secrets/GAME1") == (200, "")
    assert GAMES.ask(agent.app, "/v1/secrets/PUBLIC_KEY") == (403, "not-granted")
    assert Caller(65533, 60).ask(agent.app, "/v1/secrets/GAME1") == (200, "")
    assert Caller(65533, 65533).ask(agent.app, "/v1/secrets/GAME1") == (403, "not-granted")


def test_every_request_has_one_audit_record_with_who_and_what(running: Running) -> None:
    """Served, denied and absent; never a value."""
    agent = running.agent
    before = len(agent.audit())
    agent.get("/v1/secrets/JWT_SECRET")
    NOBODY.ask(agent.app, "/v1/secrets/JWT_SECRET")
    agent.get("/v1/bundle")
    served, denied, bundle = agent.audit()[before:]
    assert (served["outcome"], served["uid"], served["grants"]) == ("served", 0, [1])
    assert served["secrets"] == {"JWT_SECRET": running.version("JWT_SECRET")}
    assert (denied["outcome"], denied["uid"], denied["reason"]) == ("denied", 65534, "not-granted")
    assert len(bundle["secrets"]) == 6
    assert ("value of" in agent.log) is False


def test_pipelined_requests_are_answered_in_order(agent: Agent) -> None:
    """Also to a client that has closed its half."""
    requests = b"".join(b"GET /v1/secrets/GAME1 HTTP/1.1\r\nHost: a\r\n\r\n" for _ in range(20))
    received = raw(agent.app, requests, half_close=True)
    assert received.count(b"HTTP/1.1 200 OK") == 20


def test_a_slow_head_is_cut_off(agent: Agent) -> None:
    """After header_timeout, however the bytes drip."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(90)
        connection.connect(str(agent.app))
        connection.sendall(b"GET /v1/se")
        assert connection.recv(1) == b""


def test_an_idle_connection_is_closed(agent: Agent) -> None:
    """After idle_timeout, whether it has ever asked or not."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(90)
        connection.connect(str(agent.app))
        assert connection.recv(1) == b""


def test_a_kept_alive_connection_serves_many(agent: Agent) -> None:
    """One connection, one peer, many requests."""
    connection = UnixConnection(agent.app)
    for _ in range(50):
        connection.request("GET", "/v1/secrets/GAME1")
        response = connection.getresponse()
        assert (response.status, response.read() == b"value of GAME1\n ") == (200, True)
    connection.close()


def test_a_thousand_connections_are_served_and_counted_out(agent: Agent) -> None:
    """All open at once, each gets its answer, and none is left behind."""
    connections = [socket.socket(socket.AF_UNIX) for _ in range(1000)]
    try:
        for connection in connections:
            connection.settimeout(90)
            connection.connect(str(agent.app))
        for connection in connections:
            connection.sendall(b"GET /v1/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert all(connection.recv(12) == b"HTTP/1.1 200" for connection in connections)
    finally:
        for connection in connections:
            connection.close()
    agent.until(lambda: agent.status()["connections"]["app"] == 0)


def test_a_watch_times_out(agent: Agent) -> None:
    """204 without news, at once for 0 seconds."""
    generation = agent.generation
    response = agent.get(f"/v1/watch?after={generation}&timeout=0")
    assert (response.status, response.headers["secrets-generation"]) == (204, str(generation))


def test_a_watch_from_a_former_run_is_told_everything(agent: Agent) -> None:
    """A generation that is older than all that is known comes from before a restart."""
    response = agent.get("/v1/watch?after=99&timeout=5")
    assert response.status == 200
    assert (response.json["generation"], len(response.json["changed"])) == (agent.generation, 6)


def test_curl_reads_a_secret(agent: Agent) -> None:
    """As the documentation tells it."""
    result = subprocess.run(
        ["curl", "--silent", "--fail", "--unix-socket", str(agent.app), "http://localhost/v1/secrets/GAME1"],
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert (result.stdout == b"value of GAME1\n ") is True


class Changing:
    """An agent of its own for a test that changes what it serves."""

    def __init__(self, extra: str = GRANTS) -> None:
        self.world = World()
        for name in ("A", "B", "PUBLIC_KEY"):
            self.world.put(name, b"1")
        self.agent = Agent(lambda directory: fake_configuration(directory, self.world, extra)[1])

    def refresh(self) -> None:
        """Have Barbican read; more than once a second is refused, so wait."""
        self.agent.until(lambda: self.agent.ask_control("/v1/refresh", "POST").status != 429)


@pytest.fixture
def changing() -> Iterator[Changing]:
    """A running agent whose world a test may change."""
    made = Changing()
    with made.agent:
        made.agent.start().until_ready()
        yield made


def _watch(agent: Agent, answers: list[tuple[int, str]], caller: Caller, target: str) -> threading.Thread:
    thread = threading.Thread(target=lambda: answers.append(caller.ask(agent.app, target)))
    thread.start()
    return thread


def test_a_rotation_wakes_only_whom_it_concerns(changing: Changing) -> None:
    """Nobody may not read A: its rotation does not wake him; that of PUBLIC_KEY does."""
    agent, answers = changing.agent, list[tuple[int, str]]()
    first = agent.generation
    watcher = _watch(agent, answers, NOBODY, f"/v1/watch?after={first}&timeout=20")
    agent.until(lambda: agent.status()["watchers"] == 1)
    changing.world.rotate("A", b"2")
    changing.refresh()
    told = agent.get(f"/v1/watch?after={first}&timeout=20").json
    assert told == {"generation": agent.generation, "changed": ["A"]}
    assert told["generation"] > first
    assert answers == []
    changing.world.rotate("PUBLIC_KEY", b"2")
    changing.refresh()
    watcher.join(20)
    assert answers == [(200, "")]
    told = agent.get(f"/v1/watch?after={first}").json
    assert told == {"generation": agent.generation, "changed": ["A", "PUBLIC_KEY"]}


def test_the_previous_version_stays_for_its_grace(changing: Changing) -> None:
    """A signature made with the former key can still be checked."""
    changing.world.rotate("A", b"2")
    changing.refresh()
    assert changing.agent.get("/v1/secrets/A").body == b"2"
    assert changing.agent.get("/v1/secrets/A?version=previous").body == b"1"
    assert changing.agent.get("/v1/secrets/B?version=previous").status == 404


def test_a_lost_watcher_is_forgotten(changing: Changing) -> None:
    """It does not occupy the agent until its time is up."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(changing.agent.app))
        connection.sendall(b"GET /v1/watch?timeout=300 HTTP/1.1\r\nHost: a\r\n\r\n")
        changing.agent.until(lambda: changing.agent.status()["watchers"] == 1)
    changing.agent.until(lambda: changing.agent.status()["watchers"] == 0)


def test_an_event_stream_tells_each_change(changing: Changing) -> None:
    """Server-sent events: names and generation, never a value."""
    connection = UnixConnection(changing.agent.app)
    first = changing.agent.generation
    connection.request("GET", "/v1/watch", headers={"Accept": "text/event-stream"})
    response = connection.getresponse()
    assert response.getheader("Content-Type") == "text/event-stream"
    assert [response.readline().decode().strip() for _ in range(2)] == [f"id: {first}", ""]
    for name in "AB":
        changing.world.rotate(name, b"2")
        changing.refresh()
        generation = changing.agent.generation
        lines = [response.readline().decode().strip() for _ in range(4)]
        assert lines == [
            "event: changed",
            f"id: {generation}",
            f'data: {{"generation": {generation}, "changed": ["{name}"]}}',
            "",
        ]
    connection.close()


def test_limits_are_kept() -> None:
    """Connections past the limit are told so; a uid that asks too fast is told when to come back."""
    limits = (
        "[app.limits]\nconnections = 3\nconnections_per_uid = 2\nrequests_per_second = 5\n"
        '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'
    )
    made = Changing(limits)
    with made.agent as agent:
        agent.start()
        agent.until(lambda: agent.status()["state"] == "ready")
        held = [UnixConnection(agent.app) for _ in range(2)]
        for connection in held:
            connection.connect()
        agent.until(lambda: agent.status()["connections"].get("app") == 2)
        received = raw(agent.app, b"GET /v1/secrets HTTP/1.1\r\nHost: a\r\n\r\n")
        assert received.startswith(b"HTTP/1.1 503")
        assert b"too-many-connections" in received
        assert b"\r\nRetry-After: 1\r\n" in received
        statuses = []
        for _ in range(12):
            held[0].request("GET", "/v1/secrets")
            response = held[0].getresponse()
            statuses.append(response.status)
            response.read()
        assert set(statuses) == {200, 429}
        assert response.getheader("Retry-After") == "1"
        for connection in held:
            connection.close()
