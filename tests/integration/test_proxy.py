"""``[keystone] proxy``: the real fetch program through a real tinyproxy, and through proxies that fail.

TLS goes from end to end through it, its password is nowhere, and what it refuses is named as its failure.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

import pytest
from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from agent.config.model import Proxy
from agent.core.errors import Fault, Step
from agent.fetch.tunnel import ProxyError, Way
from agent.identity.calls import Line
from agent.identity.errors import IdentityError
from deployer.cloud import calls
from lab.testbed.fakes.beacon import BeaconServer
from lab.testbed.fakes.cloud import VPS, FakeCloud
from lab.testbed.fakes.fetching import Fetch, Ran, configure
from lab.testbed.fakes.nginx import Nginx
from lab.testbed.fakes.tinyproxy import FailingProxy, Tinyproxy
from lab.testbed.fakes.tls import tls_context
from lab.testbed.fakes.watching import look

if TYPE_CHECKING:
    import socket
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path

Act: TypeAlias = "Callable[[socket.socket, threading.Event], None]"
PASSWORD: Final = "canary-" + secrets.token_hex(16)
USER: Final = "vps-prod-001"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[FakeCloud]:
    """A cloud that speaks TLS, with a secret."""
    with FakeCloud(tls_context(tmp_path)) as made:
        made.add(f"{VPS}/JWT_SECRET")
        yield made


@pytest.fixture
def password(tmp_path: Path) -> Path:
    """The proxy's password in a private file."""
    path = tmp_path / "proxy-password"
    path.write_text(PASSWORD + "\n")
    path.chmod(0o400)
    return path


def through(cloud: FakeCloud, directory: Path, proxy: str, **changes: str) -> Fetch:
    """Configure a reading through a proxy."""
    lines = {"ca_file": str(directory / "ca.pem"), "proxy": proxy} | changes
    return configure(cloud, directory, **lines)


def places_of(cloud: FakeCloud) -> set[str]:
    """Return what a proxy is asked for on the way to the two services."""
    return {server.address.removeprefix("https://") for server in cloud.servers.values()}


def quiet(ran: Ran, cloud: FakeCloud) -> None:
    """Nothing secret in journal and header."""
    assert not ran.leaks([*cloud.canaries, PASSWORD.encode()])


def test_a_reading_goes_through(cloud: FakeCloud, tmp_path: Path) -> None:
    """All of it, by CONNECT: the proxy learns names and ports; values and tokens come from end to end."""
    with Tinyproxy() as proxy:
        ran = through(cloud, tmp_path, proxy.url)()
        assert len(ran.reading.read) == 1
        assert set(proxy.places()) == places_of(cloud)
    quiet(ran, cloud)


@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
def test_with_a_login(cloud: FakeCloud, tmp_path: Path, password: Path, *, right: bool) -> None:
    """The password comes from a credential; a wrong one is the proxy's failure, and reaches no service."""
    with Tinyproxy((USER, PASSWORD if right else "another")) as proxy:
        ran = through(cloud, tmp_path, proxy.url, proxy_user=USER, proxy_credential_file=str(password))()
        if right:
            assert len(ran.reading.read) == 1
        else:
            assert (ran.failure.step, ran.failure.fault) == (Step.PROXY, Fault.TRANSIENT)
            assert ran.failure.status in {401, 407}
            assert not cloud.requests
    quiet(ran, cloud)


def test_the_password_as_systemds_credential(cloud: FakeCloud, tmp_path: Path) -> None:
    """By its name in $CREDENTIALS_DIRECTORY; what stands there where there is none is no password."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    file = directory / "proxy-password"
    with Tinyproxy((USER, PASSWORD)) as proxy:
        fetch = through(cloud, tmp_path, proxy.url, proxy_user=USER)
        fetch = replace(fetch, environ={"CREDENTIALS_DIRECTORY": str(directory)})
        for content, advice in ((PASSWORD, ""), ("none", "systemd-creds encrypt --name=proxy-password")):
            file.unlink(missing_ok=True)
            file.write_text(content)
            file.chmod(0o400)
            ran = fetch()
            assert (ran.reply.reading is None) is bool(advice)
            if advice:
                assert ran.failure.step is Step.CREDENTIAL
                assert advice in ran.failure.advice
            quiet(ran, cloud)


def _answers(head: str) -> Act:
    return lambda connection, _: connection.sendall(head.encode())


def _hangs(_: socket.socket, released: threading.Event) -> None:
    released.wait(120)


def _drips(connection: socket.socket, released: threading.Event) -> None:
    while not released.wait(0.1):
        connection.sendall(b"H")


def _is_endless(connection: socket.socket, released: threading.Event) -> None:
    while not released.is_set():
        connection.sendall(b"x" * 4096)


FAULTS: Final[dict[str, tuple[Act, int | None, str]]] = {
    "407": (_answers("HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n"), 407, "keystone.proxy_user"),
    "403": (_answers("HTTP/1.1 403 No\r\n\r\n"), 403, "it does not allow localhost:"),
    "502": (_answers("HTTP/1.0 502 Bad Gateway\r\n\r\nlogin page"), 502, "it can't reach localhost:"),
    "504": (_answers("HTTP/1.1 504 Late\r\n\r\n"), 504, "no answer from localhost:"),
    "302": (
        _answers("HTTP/1.1 302 Found\r\nLocation: https://x.invalid\r\n\r\n"),
        302,
        "not connect",
    ),
    "no HTTP": (_answers("220 smtp.example.org ESMTP\r\n\r\n"), None, "not HTTP"),
    "hangs up": (_answers(""), None, "not HTTP"),
    "hangs": (_hangs, None, "not connected to localhost:"),
    "drips": (_drips, None, "not connected to localhost:"),
    "endless": (_is_endless, None, "not HTTP"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_proxy_that_fails(fault: tuple[Act, int | None, str]) -> None:
    """Each way gets its advice, in time; the login goes to the proxy and into no text."""
    act, status, advice = fault
    with FailingProxy(act) as proxy:
        way = Way(Proxy("127.0.0.1", proxy.server_address[1], user=USER), PASSWORD)
        with pytest.raises(ProxyError) as caught:
            way.connect("localhost", 443, 30.0 if status else 1.0)
        assert proxy.heads[0].startswith(b"CONNECT localhost:443 HTTP/1.1\r\n")
        assert base64.b64encode(f"{USER}:{PASSWORD}".encode()) in proxy.heads[0]
    assert caught.value.status == status
    assert advice in caught.value.advice
    assert PASSWORD not in repr(caught.value)


@pytest.mark.parametrize("name", ["407", "hangs"])
def test_a_cycle_through_a_proxy_that_fails(
    cloud: FakeCloud, tmp_path: Path, password: Path, name: str
) -> None:
    """The failed step is the proxy, the cycle ends in time, and what is held is kept (transient)."""
    act, status, advice = FAULTS[name]
    with FailingProxy(act) as proxy:
        fetch = through(cloud, tmp_path, proxy.url, proxy_user=USER, proxy_credential_file=str(password))
        fetch.config.write_text(fetch.config.read_text() + '[fetch]\nconnect_timeout = "2s"\n')
        ran = fetch()
    assert (ran.failure.step, ran.failure.fault, ran.failure.status) == (Step.PROXY, Fault.TRANSIENT, status)
    assert advice in ran.failure.advice
    assert cloud.auth_url in ran.failure.tried
    assert not cloud.requests
    quiet(ran, cloud)


def test_a_proxy_that_is_away(cloud: FakeCloud, tmp_path: Path) -> None:
    """Its port is closed, or its name does not resolve: nothing is tried without it."""
    with Tinyproxy() as proxy:
        fetch = through(cloud, tmp_path, proxy.url)
        proxy.stop()
        away = fetch().failure
    unknown = through(cloud, tmp_path, "http://proxy.invalid:3128")().failure
    assert {away.step, unknown.step} == {Step.PROXY}
    assert "ECONNREFUSED" in away.advice
    assert "proxy.invalid does not resolve" in unknown.advice
    assert not cloud.requests


def test_a_proxy_in_the_middle_is_found_out(cloud: FakeCloud, tmp_path: Path) -> None:
    """The certificate is the service's own: one of another authority behind the proxy gets no credential."""
    (tmp_path / "other").mkdir()
    tls_context(tmp_path / "other")
    with Tinyproxy() as proxy:
        ran = through(cloud, tmp_path, proxy.url, ca_file=str(tmp_path / "other/ca.pem"))()
        assert proxy.places() != []
    assert ran.failure.step is Step.TLS
    assert not cloud.requests


def test_what_is_exempt_goes_straight(cloud: FakeCloud, tmp_path: Path) -> None:
    """``no_proxy`` by name, though the proxy is away; and plain HTTP, which is for loopback only, always."""
    gone = "http://127.0.0.1:1"
    fetch = through(cloud, tmp_path, gone)
    assert fetch().failure.step is Step.PROXY
    fetch.config.write_text(fetch.config.read_text().replace("proxy =", 'no_proxy = ["localhost"]\nproxy ='))
    assert len(fetch().reading.read) == 1
    with FakeCloud() as plain:
        assert configure(plain, tmp_path, proxy=gone)().reading.entries == ()


def test_the_beacon_is_looked_at_through_it(tmp_path: Path) -> None:
    """Over TLS, by the same proxy; without it the look fails and names it."""
    tls_context(tmp_path)
    with Nginx(tmp_path / "server.pem") as server, Tinyproxy() as proxy:
        server.file.write_text("touched")
        path = tmp_path / "agent.toml"
        path.write_text(
            f'vps_id = "{VPS}"\ncontainer = "0b5a7c5e-2d0e-4c1c-9b0a-3f6f7d7d0b11"\n[keystone]\n'
            f'auth_url = "https://localhost:1/v3"\napplication_credential_id = "none"\n'
            f'proxy = "{proxy.url}"\n'
            f'[beacon]\nurl = "{server.url}"\nca_file = "{tmp_path / "ca.pem"}"\n'
        )
        assert look(path).seen
        assert proxy.places() == [server.origin.removeprefix("https://")]
        proxy.stop()
        failure = look(path).failure
    assert failure.step is Step.PROXY
    assert "ECONNREFUSED" in failure.advice


def test_the_environment_does_not_lead_the_beacon_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor anybody who renews: a variable left by somebody does not decide where a token goes."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with BeaconServer() as beacon:
        path = tmp_path / "agent.toml"
        path.write_text(
            f'vps_id = "{VPS}"\ncontainer = "0b5a7c5e-2d0e-4c1c-9b0a-3f6f7d7d0b11"\n[keystone]\n'
            f'auth_url = "https://localhost:1/v3"\napplication_credential_id = "none"\n'
            f'[beacon]\nurl = "{beacon.url}"\n'
        )
        assert look(path).seen
        assert Line().call("GET", beacon.url, "ask", (200,)).status == 200


def test_what_renews_and_joins_goes_through_it(cloud: FakeCloud, tmp_path: Path) -> None:
    """The calls about the VPS's own account take the same way, and say so where it fails."""
    with Tinyproxy() as proxy:
        way = Way(Proxy("127.0.0.1", proxy.port))
        line = Line(str(tmp_path / "ca.pem"), way)
        line.call("GET", cloud.auth_url, "ask", range(200, 600))
        assert proxy.places() == [cloud.servers["keystone"].address.removeprefix("https://")]
        proxy.stop()
        with pytest.raises(IdentityError, match=r"ECONNREFUSED.*check keystone.proxy"):
            Line(str(tmp_path / "ca.pem"), way).call("GET", cloud.auth_url, "ask", range(200, 600))


def test_the_deployer_has_the_proxy_of_its_unit_s_environment(
    cloud: FakeCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no setting: a drop-in that names the variable is what sends it through, TLS from end to end."""
    with Tinyproxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        login = v3.ApplicationCredential(
            auth_url=cloud.auth_url,
            application_credential_id="0123456789abcdef",
            application_credential_secret=cloud.credential,
        )
        calls.access(Session(auth=login, verify=str(tmp_path / "ca.pem")), "log in")
        assert set(proxy.places()) == {cloud.servers["keystone"].address.removeprefix("https://")}
