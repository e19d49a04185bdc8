"""The deployer's API and what it must not do: show a value, change without a record, answer a stranger."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import resource
import secrets as random
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import select, text

from deployer.api import contract
from deployer.database import blueprints, history, secrets, vpses
from deployer.database.schema import metadata
from deployer.database.secrets import SeenSecret
from lab.testbed.certificates import api_tls
from lab.testbed.deployer import JSON, ROUTES, Api, until
from lab.testbed.running import ROOT, Response, UnixConnection, raw
from tests.integration.test_canary import forms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deployer.api.contract import Operation

OCTETS: Final = {"Content-Type": "application/octet-stream"}
WISH: Final = {"blueprint": "backend"}
VALUE: Final = "/v1/vps/vps-1/secrets/SMTP_PASSWORD"
CLAIM: Final = "/v1/vps/vps-1/claim"
PASSWORD: Final = random.token_urlsafe(24)
BODIES: Final[dict[str, Any]] = {
    "wishVps": {"blueprint": "backend", "wave": 7},
    "claimVps": None,
    "rotateVps": {"reason": "r"},
    "rollbackVps": {"reason": "r", "names": ["JWT_SECRET"]},
    "emergencyVps": {"reason": "r"},
    "revokeVps": {"reason": "r"},
    "restoreAccess": {"reason": "r"},
    "retireVps": {"reason": "r", "confirm": "vps-1"},
    "rotateMany": {"reason": "r", "all": True},
}
CHANGES: Final = [each for each in ROUTES.operations if each.changes]


def prepared(api: Api) -> None:
    """Write a blueprint and a VPS that has secrets, each with a former version."""
    now = time.time()
    with api.database.write() as c:
        blueprints.put(c, now, "backend", '[JWT_SECRET]\nkind = "random"\n', "unix:ops")
        vpses.wish(c, now, "vps-1", "backend", labels={}, actor="unix:ops")
        vpses.know(c, "vps-1", "u", "3" * 8 + "-3333-4333-8333-" + "3" * 12)
        seen = [
            SeenSecret(
                "JWT_SECRET",
                "random",
                "JWT_SECRET",
                "1" * 8 + "-1111-4111-8111-" + "1" * 12,
                now,
                now + 1e6,
                now + 9e5,
            ),
            SeenSecret("SMTP_PASSWORD", "external", "SMTP_PASSWORD"),
        ]
        secrets.seen(c, "vps-1", seen)
        c.execute(
            metadata.tables["version"]
            .insert()
            .values(uuid="2" * 8, vps="vps-1", name="JWT_SECRET", created=now, rotation="r", first_seen=now)
        )
    assert api.parts is not None
    api.parts.answers["POST", "/vps/vps-1/claim"] = 200, {"userId": "u", "oneTimePassword": PASSWORD}


@pytest.fixture
def api() -> Iterator[Api]:
    """Give an API with one VPS."""
    with Api() as made:
        prepared(made)
        yield made


@pytest.fixture(scope="module")
def patient() -> Iterator[Api]:
    """Give one for tests that change nothing."""
    with Api(api='[api.limits]\nrequest_timeout = "1s"\nidle_timeout = "20s"\n') as made:
        prepared(made)
        yield made


def send(api: Api, operation: Operation) -> Response:
    """Ask for an operation that changes something, as one would."""
    target = operation.template.replace("{id}", "vps-1").replace("{name}", "SMTP_PASSWORD")
    if operation.id == "giveValue":
        return api.ask(operation.method, target, body=b"v", headers=OCTETS)
    return api.ask(operation.method, target, BODIES[operation.id])


def everything(api: Api) -> dict[str, list[tuple[object, ...]]]:
    """Return what all tables hold."""
    with api.database.read() as c:
        return {
            table.name: [tuple(row) for row in c.execute(select(table))] for table in metadata.sorted_tables
        }


@pytest.mark.parametrize("operation", CHANGES, ids=lambda each: each.id)
def test_nothing_is_changed_without_the_record_of_who_asked(api: Api, operation: Operation) -> None:
    """Each operation that changes anything is in the history; where that can't be written, it is not done."""
    with api.database.write() as c:
        c.execute(
            text("CREATE TRIGGER full BEFORE INSERT ON history BEGIN SELECT RAISE(ABORT, 'planted'); END")
        )
    before = everything(api)
    refused = send(api, operation)
    assert refused.status in {500, 503}
    assert everything(api) == before
    assert api.parts is not None
    assert api.parts.told == []
    with api.database.write() as c:
        c.execute(text("DROP TRIGGER full"))
    done = send(api, operation)
    assert done.status in {200, 202}
    with api.database.read() as c:
        said = [(row.actor, row.action) for row in history.page(c)]
        (asked,) = c.execute(select(metadata.tables["operation"])).all()
    me = asked.asked_by
    assert me.startswith("unix:")
    assert (me, f"operation.{asked.kind}") in said


def test_what_only_reads_changes_nothing(api: Api) -> None:
    """Every GET of the contract, and every page."""
    before = everything(api)
    for operation in ROUTES.operations:
        if not operation.changes and operation.id != "streamEvents":
            target = operation.template.replace("{id}", "vps-1").replace("{operation}", "0" * 36)
            assert api.ask("GET", target).status in {200, 404}
    for page in ("/", "/vps/vps-1", "/operations", "/history", "/backups"):
        assert api.ask("GET", page).status == 200
    assert everything(api) == before


def test_a_value_goes_to_the_worker_and_nowhere_else(api: Api) -> None:
    """Byte for byte; and it is in no table, journal, log, answer, environment or argument."""
    value = random.token_bytes(48) + b"\r\n\x00"
    canaries = forms(value) | forms(value[:24])
    parts = api.parts
    assert parts is not None
    told = [api.ask("PUT", VALUE, body=value, headers=OCTETS)]
    assert (told[0].status, told[0].json["state"]) == (202, "done")
    (handed,) = [each for each in parts.told if each.method == "PUT"]
    assert (handed.path, handed.body == value) == ("/vps/vps-1/secrets/SMTP_PASSWORD", True)
    assert handed.operation == told[0].json["id"]
    for status in (404, 409, 422, 424, 500):
        parts.answers["PUT", handed.path] = status, {"detail": value.hex()}
        told.append(api.ask("PUT", VALUE, body=value, headers=OCTETS))
    assert [(each.status, each.problem) for each in told[1:]] == [
        (404, "no-such-secret"),
        (409, "conflict"),
        (422, "refused"),
        (409, "not-joined"),
        (503, "unavailable"),
    ]
    # where none belongs: as a name, in JSON, as a header, in the path, after the end of a body
    words = value.hex()
    told += [
        api.ask("PUT", "/v1/vps/vps-1", {"blueprint": words}),
        api.ask("PUT", "/v1/vps/vps-1", {"blueprint": "backend", "value": words}),
        api.ask("PUT", "/v1/vps/vps-1", {"blueprint": "backend", words: 1}),
        api.ask("PUT", "/v1/vps/vps-1", {"blueprint": "backend", "labels": {"a": [words]}}),
        api.ask("PUT", "/v1/vps/vps-1", body=b'{"blueprint": "' + words.encode(), headers=JSON),
        api.ask("GET", f"/v1/vps?label={words}"),
        api.ask("GET", f"/v1/vps?{words}=1"),
        api.ask("GET", f"/v1/{words}"),
        api.ask("GET", "/v1/vps", headers={"Host": words}),
        api.ask("POST", CLAIM, headers={"Idempotency-Key": f"{words}!"}),
        api.ask("PUT", VALUE, body=value, headers={"Content-Type": words}),
        api.ask("GET", f"/?q={words}"),
        api.ask("GET", f"/?{words}=1"),
    ]
    assert all(400 <= each.status < 500 for each in told[6:-2])
    smuggled = (
        b"PUT %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n" % VALUE.encode()
    )
    answer = raw(api.socket, smuggled + b"Content-Length: 2\r\n\r\nab" + value * 3)
    answer += raw(api.socket, value * 4)
    shown = [each for each in told if f"/?q={words}".encode() not in each.body]
    seen = [each.body + repr(each.headers).encode() for each in shown[:-2]] + [answer]
    assert api.process is not None
    process = Path(f"/proc/{api.process.pid}")
    seen += [(process / name).read_bytes() for name in ("environ", "cmdline")]
    seen += [path.read_bytes() for path in api.directory.iterdir() if path.is_file()]
    assert len(seen) > 20
    for number, text_of in enumerate(seen):
        assert not any(form in text_of for form in canaries), (
            f"a value is in what was seen as number {number}"
        )
    assert resource.prlimit(api.process.pid, resource.RLIMIT_CORE) == (0, 0)


def test_a_value_that_does_not_arrive_whole_changes_nothing(patient: Api) -> None:
    """Too large, without its length, of another type, half of it, or compressed."""
    before = everything(patient)
    ask = patient.ask
    assert ask("PUT", VALUE, body=bytes(65537), headers=OCTETS).problem == "too-large"
    chunked = {**OCTETS, "Transfer-Encoding": "chunked"}
    assert ask("PUT", VALUE, body=b"1\r\nv\r\n0\r\n\r\n", headers=chunked).problem == "length-required"
    assert ask("PUT", VALUE, {"value": "v"}).problem == "wrong-type"
    assert (
        ask("PUT", VALUE, body=b"v", headers={**OCTETS, "Content-Encoding": "gzip"}).problem == "wrong-type"
    )
    head = f"PUT {VALUE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    late = raw(patient.socket, f"{head}Content-Length: 9\r\n\r\nhalf".encode())
    assert b"408" in late.split(b"\r\n")[0]
    with contextlib.closing(UnixConnection(patient.socket)) as leaving:
        leaving.connect()
        leaving.sock.sendall(f"{head}Content-Length: 9\r\n\r\nhalf".encode())
    assert patient.ask("GET", "/v1/vps").status == 200
    assert everything(patient) == before
    assert patient.parts is not None
    assert patient.parts.told == []


def test_a_value_for_what_takes_none(api: Api) -> None:
    """Another kind, another name, another VPS; the worker that does not answer is told, with what to do."""
    ask = api.ask
    made_here = ask("PUT", "/v1/vps/vps-1/secrets/JWT_SECRET", body=b"v", headers=OCTETS)
    assert (made_here.status, made_here.problem) == (409, "not-external")
    absent = ask("PUT", "/v1/vps/vps-1/secrets/ABSENT", body=b"v", headers=OCTETS)
    assert (absent.status, absent.problem) == (404, "no-such-secret")
    assert ask("PUT", "/v1/vps/none/secrets/A", body=b"v", headers=OCTETS).problem == "no-such-vps"
    assert api.parts is not None
    assert api.parts.told == []
    api.parts.close()
    (api.directory / "worker.sock").unlink()
    lost = ask("PUT", VALUE, body=b"v", headers=OCTETS)
    assert (lost.status, lost.problem, lost.headers["retry-after"]) == (503, "unavailable", "5")
    assert "worker.sock" in lost.json["detail"]
    (operation,) = ask("GET", "/v1/operations").json["items"]
    assert (operation["state"], operation["kind"]) == ("failed", "give-value")


def test_a_portal_ends_no_identity() -> None:
    """It hands out a first one; another one for a machine that has joined is an operator's."""
    if not needs_root:
        return
    with Api('[[role]]\nrole = "portal"\nuser = "nobody"\n', api='group = "nogroup"') as api:
        prepared(api)
        for how in ("again", "keep"):
            refused = api.ask_as_somebody("POST", f"{CLAIM}?{how}=true")
            assert (refused.status, refused.problem) == (403, "not-allowed")
        assert api.ask_as_somebody("POST", CLAIM).status == 200


def test_an_identity_is_handed_out_once_and_kept_nowhere(api: Api) -> None:
    """The password is in that one answer; a second claim is refused; both are in the history."""
    parts = api.parts
    assert parts is not None
    claim = api.ask("POST", CLAIM)
    assert (claim.status, claim.json["oneTimePassword"] == PASSWORD, claim.json["userId"]) == (200, True, "u")
    assert claim.json["sealing"] == "off"
    assert claim.json["authUrl"] == "https://keystone.example/v3"
    parts.answers["POST", "/vps/vps-1/claim?again=true"] = 200, {"userId": "u2", "oneTimePassword": PASSWORD}
    assert (anew := api.ask("POST", f"{CLAIM}?again=true")).json["userId"] == "u2"
    assert (PASSWORD in anew.json["userData"], "sealing" in anew.json["userData"]) == (True, True)
    vps = api.ask("GET", "/v1/vps/vps-1").json["vps"]
    assert (vps["userId"], vps["state"]) == ("u2", "joining")
    api.ask("POST", "/v1/vps/vps-1/revoke", {"reason": "r"})
    assert api.ask("POST", f"{CLAIM}?again=true").status == 200
    vps = api.ask("GET", "/v1/vps/vps-1").json["vps"]
    assert (vps["wanted"], vps["state"]) == ("present", "joining")
    parts.answers["POST", "/vps/vps-1/claim?keep=u2"] = 200, {"userId": "u2", "oneTimePassword": PASSWORD}
    assert api.ask("POST", f"{CLAIM}?keep=true").json["userId"] == "u2"
    parts.answers["POST", "/vps/vps-1/claim?keep=u2"] = 409, {}
    kept = api.ask("POST", f"{CLAIM}?keep=true")
    assert (kept.status, kept.problem, "can't be kept" in kept.json["detail"]) == (409, "conflict", True)
    parts.answers["POST", "/vps/vps-1/claim"] = 409, {}
    again = api.ask("POST", CLAIM)
    assert (again.status, again.problem) == (409, "already-claimed")
    parts.answers["POST", "/vps/vps-1/claim"] = 200, {"userId": PASSWORD}
    assert api.ask("POST", CLAIM).problem == "part-failed"
    for target in (
        "/v1/operations",
        "/v1/history",
        "/v1/vps/vps-1",
        "/",
        "/vps/vps-1",
        "/history",
        "/operations",
    ):
        assert PASSWORD.encode() not in api.ask("GET", target).body
    for path in api.directory.iterdir():
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()
    actions = [entry["action"] for entry in api.ask("GET", "/v1/history").json["items"]]
    assert actions.count("operation.claim") == 7
    states = [each["state"] for each in api.ask("GET", "/v1/operations").json["items"]]
    assert states == [*["failed"] * 3, "done", "done", "wanted", "done", "done"]


@pytest.mark.parametrize(
    ("method", "target", "content", "status", "problem"),
    [
        ("GET", "/v1/vps/absent", None, 404, "no-such-vps"),
        ("GET", "/v1/vps/a%2fb", None, 400, "bad-parameter"),
        ("GET", "/v1/vps/../etc", None, 404, "no-such-path"),
        ("GET", f"/v1/vps/{'a' * 65}", None, 400, "bad-parameter"),
        ("GET", f"/v1/{'a' * 3000}", None, 414, "uri-too-long"),
        ("GET", "/v1/operations/0000", None, 404, "no-such-operation"),
        ("GET", "/v1/vps?limit=0", None, 400, "bad-parameter"),
        ("GET", "/v1/vps?limit=1e2", None, 400, "bad-parameter"),
        ("GET", "/v1/vps?limit=1&limit=1", None, 400, "bad-parameter"),
        ("GET", "/v1/vps?colour=red", None, 400, "bad-parameter"),
        ("GET", "/v1/vps?state=%ff", None, 400, "bad-parameter"),
        ("GET", "/v1/vps?label=A=b", None, 400, "bad-parameter"),
        ("DELETE", "/v1/vps/vps-1", None, 405, "method-not-allowed"),
        ("POST", "/", None, 405, "method-not-allowed"),
        ("POST", "/v1/vps/absent/rotate", {"reason": "r"}, 404, "no-such-vps"),
        ("POST", "/v1/vps/vps-1/rotate", {"reason": "r", "names": ["ABSENT"]}, 404, "no-such-secret"),
        ("POST", "/v1/vps/vps-1/rotate", {"reason": "r", "names": ["A/B"]}, 400, "bad-body"),
        ("POST", "/v1/vps/vps-1/rotate", {"reason": ""}, 400, "bad-body"),
        ("POST", "/v1/vps/vps-1/rotate", {"reason": "\ud800"}, 400, "bad-body"),
        ("POST", "/v1/vps/vps-1/rotate", {"reason": 1}, 400, "bad-body"),
        ("POST", "/v1/vps/vps-1/rotate", [], 400, "bad-body"),
        ("POST", "/v1/vps/vps-1/rotate", {"reason": "r" * 201}, 400, "bad-body"),
        ("PUT", "/v1/vps/vps-9", {"blueprint": "absent"}, 409, "no-such-blueprint"),
        ("PUT", "/v1/vps/vps-9", {"blueprint": "backend\n"}, 400, "bad-body"),
        ("PUT", "/v1/vps/vps-9", {"blueprint": "backend", "value": "hunter2"}, 400, "bad-body"),
        ("PUT", "/v1/vps/vps-9", {"blueprint": "backend", "labels": {'"': "x"}}, 400, "bad-body"),
        ("PUT", "/v1/vps/vps-9", {"blueprint": "backend", "labels": {"a": 'b"'}}, 400, "bad-body"),
        ("PUT", "/v1/vps/vps-9", {"blueprint": "backend", "wave": 1.5}, 400, "bad-body"),
        ("PUT", "/v1/vps/vps-9", {"blueprint": "backend", "wave": True}, 400, "bad-body"),
        ("PUT", "/v1/vps/vps-9", {"blueprint": "backend", "wave": 10**400}, 400, "bad-body"),
        ("POST", "/v1/rotate", {"reason": "r", "all": False}, 409, "not-confirmed"),
        ("POST", CLAIM, {"reason": "r"}, 400, "bad-body"),
    ],
)
def test_bad_input(  # noqa: PLR0917  # a table
    patient: Api, method: str, target: str, content: object, status: int, problem: str
) -> None:
    """Each has its own problem, and none is an error of ours."""
    if content is None or (content == {"reason": "r"} and target == CLAIM):
        kind = {"Content-Type": "application/json"} if content else {}
        answer = patient.ask(
            method, target, body=json.dumps(content).encode() if content else None, headers=kind
        )
    else:
        answer = patient.ask(method, target, content)
    if answer.headers["content-type"].startswith("text/html"):
        assert (answer.status, problem in {"method-not-allowed", "uri-too-long"}) == (status, True)
    else:
        assert (answer.status, answer.problem) == (status, problem)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b'{"reason": "a", "reason": "b"}',
        b'{"reason": NaN}',
        b"[" * 5000,
        b'{"a":' * 5000,
        b"1" * 5000,
    ],
)
def test_bodies_that_are_no_json(patient: Api, body: bytes) -> None:
    """Told so, whatever the parser thinks of them."""
    answer = patient.ask("POST", "/v1/vps/vps-1/rotate", body=body, headers=JSON)
    assert (answer.status, answer.problem) == (400, "bad-body")


def test_a_body_too_large(patient: Api) -> None:
    """By what it says, and by what it sends."""
    large = b'{"reason": "' + b"a" * 70_000 + b'"}'
    assert patient.ask("POST", "/v1/vps/vps-1/rotate", body=large, headers=JSON).problem == "too-large"
    head = b"POST /v1/vps/vps-1/rotate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    chunks = b"Transfer-Encoding: chunked\r\n\r\n" + (b"1000\r\n" + b"a" * 4096 + b"\r\n") * 20
    assert b" 413 " in raw(patient.socket, head + chunks).split(b"\r\n")[0]


def test_half_a_request_is_ended(patient: Api) -> None:
    """Nothing at all, half a line, half a head: each within its time; others are answered meanwhile."""
    with contextlib.ExitStack() as stack:
        slow = []
        for begun in (b"", b"GET /v1/v", b"GET /v1/vps HTTP/1.1\r\nHost: loc"):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(60)
            client.connect(str(patient.socket))
            client.sendall(begun)
            slow.append(client)
        assert patient.ask("GET", "/v1/vps").status == 200
        for client in slow:
            answer = b""
            while data := client.recv(65536):
                answer += data
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"urn:vps-secrets:problem:too-slow" in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/vps HTTP/1.1\r\n\r\n",
        b"GET /v1/vps HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n",
        b"GET /v1/vps HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /v1/vps HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/vps HTTP/1.1\r\nHost: localhost\r\n" + b"X: 1\r\n" * 5000 + b"\r\n",
        b"GET /v1/vps HTTP/1.1\r\nHost: localhost\r\n" + b"X: 1\r\n" * 100_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost:22\r\n\r\n",
    ],
    ids=range(13),
)
def test_what_is_no_request(patient: Api, request_bytes: bytes) -> None:
    """It is answered with a problem or the connection ends; nothing of it comes back."""
    answer = raw(patient.socket, request_bytes)
    assert answer == b"" or (answer[:5], answer[8:10]) == (b"HTTP/", b" 4")
    assert b"Traceback" not in answer
    assert b"aaaa" not in answer
    assert patient.ask("GET", "/v1/vps").status == 200


def test_names_of_elsewhere_and_pages_of_elsewhere(patient: Api) -> None:
    """A name that was bound to this address by somebody else; a form of another site."""
    for host in ("evil.example", "localhost.evil.example", "", "localhost:80:80", "127.0.0.1"):
        answer = patient.ask("GET", "/", headers={"Host": host})
        assert answer.status == 421
    assert patient.ask("GET", "/", headers={"Host": "LOCALHOST:8080"}).status == 200
    order = {"reason": "r"}
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        answer = patient.ask("POST", "/v1/vps/vps-1/rotate", order, headers=headers)
        assert (answer.status, answer.problem) == (403, "cross-site")
    plain = patient.ask(
        "POST", "/v1/vps/vps-1/rotate", body=b'{"reason":"r"}', headers={"Content-Type": "text/plain"}
    )
    assert plain.problem == "wrong-type"


def test_a_thousand_clients() -> None:
    """Nearly so many are connected at a time, and each gets its answer; one too many is told."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with Api(api="[api.limits]\nconnections = 1100\nconnections_per_caller = 1000\n") as large:
            with contextlib.ExitStack() as stack:
                clients = []
                for _ in range(990):
                    client = stack.enter_context(socket.socket(socket.AF_UNIX))
                    client.settimeout(60)
                    client.connect(str(large.socket))
                    clients.append(client)
                for client in clients:
                    client.sendall(b"GET /v1/keys HTTP/1.1\r\nHost: localhost\r\n\r\n")
                for client in clients:
                    assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
                for _ in range(11):
                    client = stack.enter_context(socket.socket(socket.AF_UNIX))
                    client.settimeout(60)
                    client.connect(str(large.socket))
                assert client.recv(65536).startswith(b"HTTP/1.1 429 ")
            until(lambda: large.ask("GET", "/v1/keys").status == 200)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


needs_root = os.geteuid() == 0


def test_who_has_which_role() -> None:
    """By group and by user; the highest counts; a stranger gets nothing, be there something or not."""
    if not needs_root:
        group = grp.getgrgid(os.getegid()).gr_name
        with Api(f'[[role]]\nrole = "viewer"\ngroup = "{group}"\n') as api:
            assert api.ask("GET", "/v1/vps").status == 200
        return
    viewers, portals = grp.getgrnam("games").gr_gid, grp.getgrnam("mail").gr_gid
    rules = "".join(
        f'[[role]]\nrole = "{role}"\ngroup = "{group}"\n'
        for role, group in (("viewer", "games"), ("portal", "mail"))
    )
    with Api(rules, api='group = "nogroup"') as api:
        prepared(api)
        assert api.socket.stat().st_mode & 0o777 == 0o660
        stranger = api.ask_as_somebody("GET", "/v1/vps")
        assert (stranger.status, stranger.problem) == (403, "no-role")
        assert api.ask_as_somebody("GET", "/v1/absent").problem == "no-role"
        order = {"reason": "r"}
        seen = api.ask_as_somebody("GET", "/v1/vps", groups=(viewers,))
        assert seen.status == 200
        denied = api.ask_as_somebody("POST", "/v1/vps/vps-1/rotate", order, groups=(viewers,))
        assert (denied.status, denied.problem) == (403, "not-allowed")
        assert "portal" in denied.json["detail"]
        allowed = api.ask_as_somebody("POST", "/v1/vps/vps-1/rotate", order, groups=(viewers, portals))
        assert (allowed.status, allowed.json["askedBy"]) == (202, "unix:nobody")
        denied = api.ask_as_somebody("POST", "/v1/vps/vps-1/revoke", order, groups=(viewers, portals))
        assert (denied.status, "operator" in denied.json["detail"]) == (403, True)


def test_every_operation_says_its_role() -> None:
    """What takes away or reaches many is an operator's; nothing that changes is a viewer's."""
    by_role = {operation.id: operation.role.name for operation in ROUTES.operations}
    assert {name for name, role in by_role.items() if role == "PORTAL"} == {
        *("wishVps", "claimVps", "giveValue", "rotateVps"),
    }
    assert all(by_role[operation.id] != "VIEWER" for operation in CHANGES)
    assert len(contract.DOCUMENT["paths"]) > 15


def test_a_renewed_certificate_is_taken_without_a_restart(tmp_path: Path) -> None:
    """And how long it lasts is a check, a figure and a line of ``status``."""
    port, tls = api_tls(tmp_path)

    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=60)

    with Api(api=tls) as api:

        def warned() -> bool:
            found = {each["name"]: each for each in api.ask("GET", "/v1/checks").json["items"]}
            return len(found) == 2 and not any(each["passed"] for each in found.values())

        until(warned)  # they last two days
        metrics = api.ask("GET", "/metrics").body.decode()
        host = socket.gethostname()
        assert f'credential_warning{{credential="certificate of the API on {host}"}} 2.0' in metrics
        before = shown()
        (tmp_path / "server.pem").write_text((tmp_path / "portal.pem").read_text())  # not its key
        until(lambda: "the former is used" in api.log.read_text())
        assert shown() == before
        (tmp_path / "server.key").write_text((tmp_path / "portal.key").read_text())
        until(lambda: shown() != before)
        assert "CN=" not in api.log.read_text()


def test_over_tls_the_certificate_is_the_caller(tmp_path: Path) -> None:
    """Without one of our authority there is no connection; with one, its role."""
    port, tls = api_tls(tmp_path)
    with Api('[[role]]\nrole = "portal"\ncertificate = "CN=portal"\n', api=tls) as api:
        prepared(api)

        def ask(method: str, target: str, name: str | None, body: bytes = b"") -> tuple[int, bytes]:
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if name is not None:
                context.load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
            with (
                socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as secure,
            ):
                head = f"{method} {target} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n"
                kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                secure.sendall((head + kind).encode() + body)
                answer = b""
                while data := secure.recv(65536):
                    answer += data
            return int(answer.split(b" ")[1]) if answer else 0, answer

        status, answer = ask("POST", "/v1/vps/vps-1/rotate", "portal", b'{"reason": "r"}')
        assert status == 202
        assert b'"askedBy": "tls:CN=portal"' in answer
        assert ask("POST", "/v1/vps/vps-1/revoke", "portal", b'{"reason": "r"}')[0] == 403
        for name in (None, "stranger"):
            with contextlib.suppress(ssl.SSLError, ConnectionError):  # it may come after the handshake
                assert ask("GET", "/v1/vps", name) == (0, b"")
        assert api.ask("GET", "/v1/vps").status == 200
        assert "Traceback" not in api.log.read_text()


def _main(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deployer.api", "--config", str(config), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.long
def test_what_keeps_it_from_starting_is_said_in_words(api: Api, tmp_path: Path) -> None:
    """A wrong file, another process at the socket, no group, no certificate; no traceback in any."""
    config = api.directory / "deployer.toml"
    right = config.read_text()
    assert _main(config, "--check-config").returncode == 0
    second = _main(config)
    assert (second.returncode, "another process listens" in second.stderr) == (1, True)
    wrong = tmp_path / "deployer.toml"
    for text_of, status, words in (
        ("[api]\ncolour = 1\n", 2, "is not a key of this table"),
        (
            right.replace("/api.sock", "/other.sock").replace("[api]", '[api]\ngroup = "absent-group"'),
            1,
            "no group",
        ),
        (right.replace("/api.sock", "/deployer.toml"), 1, "is no socket"),
        (right.replace("/api.sock", "/absent/api.sock"), 1, "No such file"),
        (right.replace("/deployer.db", "/absent/deployer.db"), 1, "folder must exist"),
        (
            right.replace("/api.sock", "/other.sock").replace(
                "[[role]]",
                '[api.tls]\naddress = "127.0.0.1:1"\ncertificate = "/n"\nclient_ca = "/n"\n[[role]]',
                1,
            ),
            1,
            "can't be read",
        ),
    ):
        wrong.write_text(text_of)
        failed = _main(wrong)
        assert (failed.returncode, words in failed.stderr) == (status, True), failed.stderr
        assert "Traceback" not in failed.stderr


def test_a_database_that_goes_away_is_told_and_comes_back(api: Api) -> None:
    """503 with a word when to ask again; the API lives on and answers when it is there again."""
    with contextlib.ExitStack() as stack:
        writing = stack.enter_context(api.database.write())
        writing.execute(text("UPDATE vps SET failures = 1"))
        answer = api.ask("POST", "/v1/vps/vps-1/rotate", {"reason": "r"})
        assert (answer.status, answer.problem) == (503, "unavailable")
        assert answer.headers["retry-after"] == "5"
        assert "Nothing was changed" in answer.json["detail"]
        assert api.ask("GET", "/v1/vps/vps-1").status == 200
    assert api.ask("POST", "/v1/vps/vps-1/rotate", {"reason": "r"}).status == 202
