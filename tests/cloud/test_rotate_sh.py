"""docs/examples/rotate.sh on the real Barbican: what it stores, a pair, an expired token, failures."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deployer.cloud.secrets import Vps
    from lab.testbed.cloud import Cloud

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "rotate.sh"


class Way:
    """A proxy before Barbican that notes every call, and answers 503 where ``fails`` says so."""

    def __init__(self, barbican: str) -> None:
        self.calls: list[tuple[str, str]] = []
        self.failing: dict[tuple[str, str], int] = {}
        way = self

        class Handler(BaseHTTPRequestHandler):
            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = body.replace(way.url.encode(), barbican.encode())
                kind = (
                    self.command,
                    "entry"
                    if self.path.endswith("/secrets") and "/containers/" in self.path
                    else self.path.split("/")[2],
                )
                way.calls.append(kind)
                count = way.calls.count(kind)
                if 0 < way.failing.get(kind, 0) <= count:
                    self._answer(503, b"{}")
                    return
                headers = {
                    k: v for k, v in self.headers.items() if k.lower() not in {"host", "content-length"}
                }
                try:
                    with urlopen(  # noqa: S310  # the testbed's own address
                        Request(  # noqa: S310  # as above
                            barbican + self.path, body or None, headers, method=self.command
                        )
                    ) as got:
                        self._answer(got.status, got.read().replace(barbican.encode(), way.url.encode()))
                except HTTPError as refused:
                    with refused:
                        self._answer(refused.code, refused.read())

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = _pass  # noqa: N815  # http.server's names

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def way(cloud: Cloud) -> Iterator[Way]:
    """A way to the shared cloud's Barbican."""
    made = Way(cloud.testbed.places.barbican_url)
    yield made
    made.server.shutdown()
    made.server.server_close()


def rotate(
    cloud: Cloud, vps: Vps, *arguments: str, sent: bytes = b"", way: Way | None = None, **environ: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the script as the deployment."""
    container = vps.container_ref
    if way is not None:
        container = container.replace(cloud.testbed.places.barbican_url, way.url)
    told = {"VPS_ID": vps.vps_id, "CONTAINER": container, "USER_ID": vps.user_id}
    told |= {"TOKEN": cloud.deployment_token(), "PATH": os.environ["PATH"]} | environ
    return subprocess.run([SCRIPT, *arguments], input=sent, env=told, capture_output=True, check=False)


def served(cloud: Cloud, vps: Vps) -> dict[str, list[bytes]]:
    """Return the payloads of each name's entries, read as the VPS's own account."""
    session = cloud.accounts.log_in_with(cloud.runtime[vps.vps_id].credential)
    read: dict[str, list[bytes]] = {}
    for entry in cloud.deployment.entries(vps):
        got = session.get(
            f"{entry.secret_ref}/payload", headers={"Accept": "application/octet-stream"}, log=False
        )
        read.setdefault(entry.name.partition("/")[2], []).append(got.content)
    return read


def test_what_is_stored(cloud: Cloud, way: Way, tmp_path: Path) -> None:
    """Standard input less one newline; a file byte for byte, with a word where it ends in a newline."""
    vps = cloud.vps("vps-sh-bytes", {"A": b"a1"})
    for sent, stored in ((b"x\n", b"x"), (b"x\n\n", b"x\n"), (b"\0x \xff", b"\0x \xff")):
        done = rotate(cloud, vps, "A", sent=sent)
        assert (done.returncode, served(cloud, vps)) == (0, {"A": [stored]}), done.stderr
    for content in (b"\0\xff\n", b"plain"):
        (tmp_path / "file").write_bytes(content)
        done = rotate(cloud, vps, f"A={tmp_path}/file")
        assert (done.returncode, served(cloud, vps)) == (0, {"A": [content]}), done.stderr
        assert (b"ends in a newline" in done.stderr) is content.endswith(b"\n")
    for arguments in ([], ["A"], ["A", "B"], ["A=/missing"], ["A=/dev/null"], ["a/b"]):
        done = rotate(cloud, vps, *arguments, sent=b"\n", way=way)
        assert (done.returncode, way.calls) == (1, []), arguments
        assert done.stderr.startswith(b"rotate.sh: ") or b"\nrotate.sh: " in done.stderr
    assert served(cloud, vps) == {"A": [b"plain"]}


def test_a_pair_and_its_order(cloud: Cloud, way: Way, tmp_path: Path) -> None:
    """All new entries are listed before an old one goes; other names stay."""
    vps = cloud.vps("vps-sh-pair", {"A": b"a1", "B": b"b1", "C": b"c1"})
    (tmp_path / "a").write_bytes(b"a2")
    (tmp_path / "b").write_bytes(b"b2")
    done = rotate(cloud, vps, f"A={tmp_path}/a", f"B={tmp_path}/b", way=way)
    assert done.returncode == 0, done.stderr
    assert served(cloud, vps) == {"A": [b"a2"], "B": [b"b2"], "C": [b"c1"]}
    entries = [call for call, kind in way.calls if kind == "entry"]
    assert entries == ["POST", "POST", "DELETE", "DELETE"]
    assert way.calls[-2:] == [("DELETE", "secrets")] * 2


def test_a_name_that_was_rolled_back(cloud: Cloud) -> None:
    """It is listed as A~K: that is what is replaced, and what is new has a higher K."""
    vps = cloud.vps("vps-sh-back", {"A": b"a1"})
    first = cloud.deployment.entries(vps)[0]
    cloud.deployment.rotate(vps, {"A": b"a2", "AB": b"ab"}, keeps=True)
    cloud.deployment.roll_back(vps, {"A": first.secret_ref})
    ((back, _),) = [item for item in served(cloud, vps).items() if item[0] != "AB"]
    done = rotate(cloud, vps, "A", sent=b"a3")
    assert done.returncode == 0, done.stderr
    name, _, k = back.partition("~")
    assert served(cloud, vps) == {f"{name}~{int(k) + 1}": [b"a3"], "AB": [b"ab"]}


def test_an_expired_token_is_replaced_once(cloud: Cloud, way: Way) -> None:
    """With the credential by one login; without it nothing is done, and said."""
    vps = cloud.vps("vps-sh-token", {"A": b"a1"})
    done = rotate(cloud, vps, "A", sent=b"a2", TOKEN="expired")
    assert (done.returncode, served(cloud, vps)) == (1, {"A": [b"a1"]})
    assert b"a new TOKEN" in done.stderr
    made = cloud.deployer
    login = {
        "OS_AUTH_URL": cloud.auth_url,
        "OS_APPLICATION_CREDENTIAL_ID": made.id,
        "OS_APPLICATION_CREDENTIAL_SECRET": made.secret,
    }
    for number, token in enumerate(("expired", "")):
        way.calls.clear()
        value = f"new{number}".encode()
        done = rotate(cloud, vps, "A", sent=value, way=way, TOKEN=token, **login)
        assert (done.returncode, served(cloud, vps)) == (0, {"A": [value]}), done.stderr
        assert way.calls.count(("GET", "containers")) == (2 if token else 1)
        assert made.secret.encode() not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "case",
    [
        ({("PUT", "secrets"): 2}, 1, b"nothing of this run is left"),
        ({("POST", "entry"): 2}, 1, b"nothing of this run is left"),
        ({("POST", "entry"): 2, ("DELETE", "entry"): 1}, 2, b"Run this again"),
        ({("DELETE", "entry"): 2}, 2, b"the new values are in force"),
        ({("DELETE", "secrets"): 1}, 1, b"the new values are in force"),
    ],
)
def test_no_half_rotation_is_left_in_silence(
    cloud: Cloud, way: Way, tmp_path: Path, case: tuple[dict[tuple[str, str], int], int, bytes]
) -> None:
    """Before all are listed it is undone; later what is left is named, and a repetition ends it."""
    failing, after, words = case
    vps = cloud.vps(f"vps-sh-half-{os.urandom(3).hex()}", {"A": b"a1", "B": b"b1"})
    (tmp_path / "a").write_bytes(b"a2")
    (tmp_path / "b").write_bytes(b"b2")
    pair = (f"A={tmp_path}/a", f"B={tmp_path}/b")
    way.failing = failing
    done = rotate(cloud, vps, *pair, way=way)
    assert done.returncode == 1
    assert words in done.stderr
    assert b"503" in done.stderr
    counts = Counter(entry.name for entry in cloud.deployment.entries(vps))
    assert max(counts.values()) == after
    if b"nothing" in words:
        assert served(cloud, vps) == {"A": [b"a1"], "B": [b"b1"]}
    way.failing = {}
    assert rotate(cloud, vps, *pair, way=way).returncode == 0
    assert served(cloud, vps) == {"A": [b"a2"], "B": [b"b2"]}


def test_no_program_that_it_starts_sees_a_secret(cloud: Cloud, tmp_path: Path) -> None:
    """Any user may read the arguments of a process, and its own user its environment: neither has one."""
    vps = cloud.vps("vps-sh-seen", {"A": b"a1"})
    seen = tmp_path / "seen"
    for program in ("curl", "python3", "base64"):
        real = shutil.which(program)
        spy = tmp_path / program
        spy.write_text(f'#!/bin/sh\n{{ echo "$0"; env; printf "%s\\n" "$@"; }} >>{seen}\nexec {real} "$@"\n')
        spy.chmod(0o755)
    made, value, token = cloud.deployer, b"canary-3f09-rotated", cloud.deployment_token()
    login = {
        "OS_AUTH_URL": cloud.auth_url,
        "OS_APPLICATION_CREDENTIAL_ID": made.id,
        "OS_APPLICATION_CREDENTIAL_SECRET": made.secret,
    }
    path = f"{tmp_path}:{os.environ['PATH']}"
    for given in (token, "expired"):
        done = rotate(cloud, vps, "A", sent=value, way=None, PATH=path, TOKEN=given, **login)
        assert (done.returncode, served(cloud, vps)) == (0, {"A": [value]}), done.stderr
    told = seen.read_bytes()
    assert all(f"{tmp_path}/{program}\n".encode() in told for program in ("curl", "python3", "base64"))
    hidden = {
        "the value": value,
        "the value in base64": base64.b64encode(value),
        "a token": token.encode(),
        "any token": b"X-Auth-Token",
        "the token's variable": b"TOKEN=",
        "the credential": made.secret.encode(),
    }
    assert [what for what, one in hidden.items() if one in told] == []
