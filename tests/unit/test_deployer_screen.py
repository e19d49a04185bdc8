"""deployer/cli/screen.py: what a person sees of an order that goes on; the API is a real HTTP server."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from typing import TYPE_CHECKING, Any

import pytest

from deployer.cli import screen
from deployer.cli.client import ApiError, Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR = 3600.0


class Api(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers each path with what ``answers`` has for it, in turn; the last one again and again."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, list[dict[str, Any]]] = {}
        super().__init__(str(path), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Api

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:  # http.server's name
        left = self.server.answers.get(self.path)
        answer = (left.pop(0) if len(left) > 1 else left[0]) if left else {"title": "not there"}
        body = json.dumps(answer).encode()
        self.send_response(200 if left else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """An API at a socket."""
    with Api(tmp_path / "api.sock") as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        yield made
        made.shutdown()


def operation(state: str, **more: Any) -> dict[str, Any]:
    """Return an operation as the API tells it."""
    return {
        "id": "op-1",
        "kind": "rotate",
        "target": "vps-1",
        "state": state,
        "done": 0,
        "total": 1,
        "error": "",
        "createdAt": 1000.0,
        **more,
    }


def vps(last_error: str = "", looked_at: float | None = 1001.0, *states: str) -> dict[str, Any]:
    """Return a VPS as the API tells it."""
    return {
        "vps": {"lastError": last_error, "lookedAt": looked_at},
        "rotations": [{"state": state} for state in states],
    }


def test_moments() -> None:
    """How far away, late, or long ago."""
    assert screen.until(None, 0.0) == "never"
    assert (screen.until(2 * HOUR, 0.0), screen.until(0.0, 2 * HOUR)) == ("in 2 h", "2 h late")
    assert (screen.ago(None, 0.0), screen.ago(0.0, 2 * HOUR), screen.ago(9.0, 0.0)) == (
        "-",
        "2 h ago",
        "0 s ago",
    )


def test_an_order_is_followed_to_its_end(api: Api, tmp_path: Path) -> None:
    """Whatever that is."""
    client = Client(tmp_path / "api.sock")
    api.answers["/v1/operations/op-1"] = [operation("running"), operation("done", done=1)]
    assert screen.follow(client, operation("wanted"), 60.0)["done"] == 1
    with pytest.raises(ApiError, match=r"rotate vps-1 failed: no \\x1b"):
        screen.follow(client, operation("failed", error="no \x1b"), 60.0)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (vps("Barbican: HTTP 500"), "Last failure: Barbican: HTTP 500"),
        (vps("", None, "wanted"), "The worker has not looked at it yet"),
        (vps("", 1001.0, "listed"), "the agent takes it at its next poll"),
        (vps("", 1001.0, "wanted"), "goes on; see: vps-secrets-deploy operation op-1"),
        (None, "goes on; see: vps-secrets-deploy operation op-1"),
    ],
    ids=["failing", "no worker", "listed", "under way", "gone"],
)
def test_what_it_waits_for_in_vain(
    api: Api, tmp_path: Path, answer: dict[str, Any] | None, words: str
) -> None:
    """The failure, a worker that is away, an agent that polls later; else nothing is guessed."""
    api.answers["/v1/operations/op-1"] = [operation("running")]
    if answer is not None:
        api.answers["/v1/vps/vps-1"] = [answer]
    with pytest.raises(ApiError) as caught:
        screen.follow(Client(tmp_path / "api.sock"), operation("wanted"), 0.0)
    assert words in str(caught.value)


def test_of_every_vps_no_reason_is_looked_for(api: Api, tmp_path: Path) -> None:
    """There may be thousands."""
    api.answers["/v1/operations/op-1"] = [operation("running", target=screen.EVERY)]
    with pytest.raises(ApiError, match="goes on; see"):
        screen.follow(Client(tmp_path / "api.sock"), operation("wanted", target=screen.EVERY), 0.0)
