"""docs/examples/webhook.py, run as the worker runs it, with a provider that speaks HTTP."""

from __future__ import annotations

import hmac
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from common.names import SecretName
from deployer.config.zones import zone
from deployer.core.blueprint import parse
from deployer.kinds.command import Command, Rule
from deployer.kinds.kind import Facts, KindError
from deployer.kinds.value import Value
from lab.testbed.fakes.serving import serving
from lab.testbed.tenant import Hook

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE: Final = Path(__file__).parents[2] / "docs/examples/webhook.py"
KEY: Final = "key-canary-51"
FIRST: Final = "0b5a7c5e-2d0e-4c1c-9b0a-3f6f7d7d0b11"
SECOND: Final = "0b5a7c5e-2d0e-4c1c-9b0a-3f6f7d7d0b12"


class Provider(ThreadingHTTPServer):
    """Keeps the secrets of one webhook by slot, each with its version."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Door)
        self.secrets: dict[str, tuple[str, bytes]] = {}
        self.broken = False


class Door(BaseHTTPRequestHandler):
    """What the provider answers."""

    server: Provider

    def answer(self) -> None:
        """Answer any request."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(self.status(body))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815  # as http.server wants them

    def status(self, body: bytes) -> int:
        """Do what is asked; return the HTTP status."""
        target, secrets = urlsplit(self.path), self.server.secrets
        version = parse_qs(target.query).get("version", [""])[0]
        if self.server.broken:
            return 503
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return 401
        match self.command, target.path.split("/")[1:]:
            case "GET", ["vps-1"]:
                return 200
            case "PUT", ["vps-1", "secrets", slot]:
                secrets[slot] = (version, body)
                return 204
            case "POST", ["vps-1", "ping"]:
                signatures = {hmac.digest(secret, body, "sha256").hex() for _, secret in secrets.values()}
                return 200 if self.headers["Signature"] in signatures else 409
            case "DELETE", ["vps-1", "secrets"]:
                secrets.clear()
                return 204
            case "DELETE", ["vps-1", "secrets", slot]:
                if secrets.get(slot, ("",))[0] == version:
                    del secrets[slot]
                return 204
        return 404

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider that runs."""
    with serving(Provider()) as made:
        yield made


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[Hook]:
    """What runs commands."""
    with Hook(tmp_path) as made:
        yield made


@pytest.fixture
def bed(provider: Provider, tmp_path: Path, hook: Hook) -> tuple[Command, Facts]:
    """The example, with this provider's address, and the facts of its first version."""
    path = tmp_path / "webhook"
    text = EXAMPLE.read_text()
    assert "https://api.provider.example/v1/webhooks" in text
    path.write_text(
        text.replace("https://api.provider.example/v1/webhooks", f"http://127.0.0.1:{provider.server_port}")
    )
    path.chmod(0o755)
    keys = f'kind = "command"\ncommand = "{path}"\nslots = ["a", "b"]\nrotate = "90d"\n'
    spec = parse(f"[A]\n{keys}".encode(), Path("b.toml"), zone).secrets[SecretName("A")]
    hook.allow(path)
    command = Command({PurePosixPath(path): Rule(credential=KEY.encode)}, hook.socket)
    return command, Facts("vps-1", spec.name, "a", FIRST, "r-1", spec)


def test_the_example_goes_through_a_life(bed: tuple[Command, Facts], provider: Provider) -> None:
    """Two versions in turn; a repeated step changes nothing; a late end of the first spares the third."""
    command, facts = bed
    kept: dict[str, bytes] = {}
    for slot, version in (("a", FIRST), ("b", SECOND)):
        now = replace(facts, slot=slot, version=version)
        command.preflight(now)
        with command.make(now) as value:
            with pytest.raises(KindError, match="tried again"):
                command.test(now, value)  # the provider has not got it yet
            for _ in range(2):
                command.apply(now, value)
                command.test(now, value)
            kept[slot] = bytes(value.reveal())
    assert provider.secrets == {"a": (FIRST, kept["a"]), "b": (SECOND, kept["b"])}
    with Value(b"xyz") as value, pytest.raises(KindError, match="provider has failed"):
        command.test(facts, value)
    command.retire(replace(facts, version=SECOND))
    assert "a" in provider.secrets
    for _ in range(2):
        command.retire(facts)
    assert provider.secrets.keys() == {"b"}
    command.lock(facts)
    assert provider.secrets == {}


def test_the_example_says_what_is_wrong(bed: tuple[Command, Facts], provider: Provider, hook: Hook) -> None:
    """And whether it is worth trying again."""
    command, facts = bed
    provider.broken = True
    with pytest.raises(KindError, match="it said: the provider has failed") as caught:
        command.preflight(facts)
    assert not caught.value.permanent
    provider.broken = False
    with pytest.raises(KindError, match="knows no such webhook") as caught:
        command.preflight(replace(facts, vps_id="vps-2"))
    assert caught.value.permanent
    path = facts.spec.options.path  # type: ignore[union-attr]
    wrong = Command({path: Rule(credential=lambda: b"wrong")}, hook.socket)
    with pytest.raises(KindError, match="refuses the key") as caught:
        wrong.preflight(facts)
    assert caught.value.permanent
    provider.shutdown()
    provider.server_close()
    with pytest.raises(KindError, match="can not be reached") as caught:
        command.preflight(facts)
    assert not caught.value.permanent
