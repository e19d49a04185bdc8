"""The deployer's API as a portal and an operator use it: the real process, on its socket."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from common.names import SecretName, Version
from deployer.core.model import Made, Marks
from deployer.database import (
    backups,
    blueprints,
    checks,
    history,
    operations,
    rotations,
    schema,
    secrets,
    vpses,
)
from deployer.database.secrets import SeenSecret
from lab.testbed.deployer import Api, lines, until
from lab.testbed.running import ROOT, UnixConnection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deployer.database.engine import Database

DAY_S = 86400.0
USER = "0123456789abcdef0123456789abcdef"
CONTAINER = "0b5a7c5e-2d0e-4c1c-9b0a-3f6f7d7d0b11"
ME = f"unix:{pwd.getpwuid(os.geteuid()).pw_name}"
WISH = {"blueprint": "backend", "labels": {"env": "prod"}, "wave": 1}
OLD, NEW = (f"{digit * 8}-1111-4111-8111-{digit * 12}" for digit in "12")


@pytest.fixture
def api() -> Iterator[Api]:
    """Give a fresh API whose database has one blueprint."""
    with Api() as made:
        with made.database.write() as c:
            blueprints.put(c, time.time(), "backend", '[JWT_SECRET]\nkind = "random"\n', "unix:ops")
        yield made


def provision(api: Api, vps_id: str = "vps-1", wish: dict[str, Any] | None = None) -> str:
    """Wish a VPS; return the operation's id."""
    answer = api.ask("PUT", f"/v1/vps/{vps_id}", wish or WISH)
    assert answer.status == 202
    assert answer.headers["location"] == f"/v1/operations/{answer.json['id']}"
    return str(answer.json["id"])


def as_the_worker(database: Database, vps_id: str = "vps-1", *, served: str = "g1") -> None:
    """Write what a worker writes once a VPS has all that its blueprint names."""
    now = time.time()
    with database.write() as c:
        vpses.wake(c, vps_id)
        row = vpses.claim_due(c, now, "w", 60.0)
        assert row is not None
        assert row.id == vps_id
        granted = USER if row.wanted == "present" else ""
        vpses.seen(
            c,
            now,
            vps_id,
            "w",
            user_id=USER,
            container=CONTAINER,
            granted_to=granted,
            state="current" if row.wanted == "present" else row.wanted,
            served=served,
            served_at=now,
            looked_at=now,
        )
        seen = [
            SeenSecret(
                "DATABASE_URL", "postgresql", "DATABASE_URL", NEW, now, now + 30 * DAY_S, now + 27 * DAY_S
            ),
            SeenSecret("ENCRYPTION_KEY", "random", "ENCRYPTION_KEY", NEW, now, None, None),
            SeenSecret("JWT_SECRET", "random", "session", NEW, now, now + 30 * DAY_S, now + 27 * DAY_S),
            SeenSecret("SESSION_SECRET", "random", "session", NEW, now, now + 30 * DAY_S, now + 27 * DAY_S),
            SeenSecret("SMTP_PASSWORD", "external", "SMTP_PASSWORD", None, None, None, None),
        ]
        secrets.seen(c, vps_id, seen)
        vpses.release(c, now, vps_id, "w", now + 3600)


def arrived(database: Database, vps_id: str = "vps-1") -> None:
    """Write what a worker writes when all open rotations of a VPS have arrived."""
    with database.write() as c:
        for row in rotations.open_of(c, vps_id):
            rotations.progress(c, row.id, "arrived", time.time())


def state_of(api: Api, operation: str) -> str:
    """Return the state of an operation."""
    return str(api.ask("GET", f"/v1/operations/{operation}").json["state"])


def test_a_portal_asks_for_a_vps_and_waits_for_the_operation(api: Api) -> None:
    """It is done once the worker has seen that all is there, and the worker was woken at once."""
    operation = provision(api)
    until(lambda: api.parts is not None and [told.body for told in api.parts.told] == [b'{"vps": "vps-1"}'])
    assert state_of(api, operation) == "wanted"
    shown = api.ask("GET", "/v1/vps/vps-1").json
    assert (shown["vps"]["look"], shown["vps"]["nextLook"], shown["secrets"]) == ("joining", None, [])
    as_the_worker(api.database)
    until(lambda: state_of(api, operation) == "done")
    shown = api.ask("GET", "/v1/vps/vps-1").json
    assert [each["name"] for each in shown["secrets"]][:2] == ["DATABASE_URL", "ENCRYPTION_KEY"]
    assert shown["vps"]["look"] == "fine"
    assert shown["vps"]["nextDue"] == pytest.approx(time.time() + 30 * DAY_S, abs=600)


def test_the_same_key_is_the_same_operation(api: Api) -> None:
    """However often it is sent; another order under it is refused; a wish that is met begins nothing."""
    key = {"Idempotency-Key": "deploy-42"}
    first = api.ask("PUT", "/v1/vps/vps-1", WISH, headers=key)
    again = api.ask("PUT", "/v1/vps/vps-1", WISH, headers=key)
    assert (first.status, again.status) == (202, 202)
    assert first.json["id"] == again.json["id"]
    other = api.ask("PUT", "/v1/vps/vps-1", {**WISH, "wave": 2}, headers=key)
    assert (other.status, other.problem) == (409, "idempotency-key-used")
    assert api.ask("PUT", "/v1/vps/vps-2", WISH, headers=key).problem == "idempotency-key-used"
    met = api.ask("PUT", "/v1/vps/vps-1", WISH)
    assert (met.status, met.json["vps"]["id"]) == (200, "vps-1")
    assert len(api.ask("GET", "/v1/operations").json["items"]) == 1
    assert api.ask("PUT", "/v1/vps/vps-1", {**WISH, "wave": 2}).status == 202
    assert api.ask("GET", "/v1/vps/vps-1").json["vps"]["wave"] == 2


def test_a_vps_is_sealed_as_its_wish_or_the_configuration_says() -> None:
    """A wish that says nothing of it leaves it as it is; two keys are told by state and metric."""
    with Api(sealing="") as api:
        with api.database.write() as c:
            blueprints.put(c, time.time(), "backend", '[JWT_SECRET]\nkind = "random"\n', "unix:ops")
        assert api.ask("PUT", "/v1/vps/vps-1", WISH).status == 202
        assert api.ask("PUT", "/v1/vps/vps-2", {**WISH, "sealing": "off"}).status == 202
        shown = {one["id"]: one["sealing"] for one in api.ask("GET", "/v1/vps").json["items"]}
        assert shown == {"vps-1": "required", "vps-2": "off"}
        assert api.ask("PUT", "/v1/vps/vps-2", WISH).status == 200
        assert api.ask("PUT", "/v1/vps/vps-2", {**WISH, "sealing": "required"}).status == 202
        assert api.ask("GET", "/v1/vps/vps-2").json["vps"]["sealing"] == "required"
        assert api.ask("PUT", "/v1/vps/vps-2", {**WISH, "sealing": "no"}).status == 400
        assert "vps_secrets_deployer_vps_with_two_keys 0.0" in api.ask("GET", "/metrics").body.decode()
        with api.database.write() as c:
            now = time.time()
            row = vpses.claim_due(c, now, "w", 60.0)
            assert row is not None
            vpses.seen(c, now, row.id, "w", state="two-keys")
        assert "vps_secrets_deployer_vps_with_two_keys 1.0" in api.ask("GET", "/metrics").body.decode()


def test_a_sealed_vps_is_provided_when_it_can_be_claimed() -> None:
    """Nothing can be made before it has joined; a claim without its container would be of no use."""
    with Api(sealing="") as api:
        with api.database.write() as c:
            blueprints.put(c, time.time(), "backend", '[JWT_SECRET]\nkind = "random"\n', "unix:ops")
        operation = provision(api)
        early = api.ask("POST", "/v1/vps/vps-1/claim")
        assert (early.status, early.problem) == (409, "conflict")
        assert state_of(api, operation) == "wanted"
        with api.database.write() as c:
            now = time.time()
            assert vpses.claim_due(c, now, "w", 60.0) is not None
            secrets.seen(c, "vps-1", [SeenSecret("JWT_SECRET", "random", "JWT_SECRET")])
            vpses.seen(
                c,
                now,
                "vps-1",
                "w",
                user_id=USER,
                container=CONTAINER,
                granted_to=USER,
                state="waiting-for-key",
                looked_at=now,
            )
        until(lambda: state_of(api, operation) == "done")


def test_many_at_once_under_one_key(api: Api) -> None:
    """One operation, one record, whoever wins."""
    found: list[str] = []

    def ask() -> None:
        answer = api.ask("PUT", "/v1/vps/vps-1", WISH, headers={"Idempotency-Key": "k"})
        found.append(str(answer.json["id"]))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 12
    entries = api.ask("GET", "/v1/history").json["items"]
    assert [entry["action"] for entry in entries].count("operation.provision") == 1


def test_a_rotation_by_hand(api: Api) -> None:
    """Of a name, with the others of its group; of all that rotate by themselves; never of what does not."""
    provision(api)
    as_the_worker(api.database)
    order = api.ask(
        "POST", "/v1/vps/vps-1/rotate", {"names": ["JWT_SECRET"], "reason": "a laptop was stolen"}
    )
    assert order.status == 202
    (rotation,) = api.ask("GET", "/v1/rotations").json["items"]
    assert (rotation["names"], rotation["group"]) == (["JWT_SECRET", "SESSION_SECRET"], "session")
    assert (rotation["reason"], rotation["askedBy"], rotation["note"]) == (
        "ordered",
        ME,
        "a laptop was stolen",
    )
    assert state_of(api, order.json["id"]) == "running"
    everything = api.ask("POST", "/v1/vps/vps-1/rotate", {"reason": "quarterly"}).json
    assert everything["detail"]["names"] == ["DATABASE_URL", "JWT_SECRET", "SESSION_SECRET"]
    assert everything["detail"]["byHand"] == ["ENCRYPTION_KEY", "SMTP_PASSWORD"]
    # the group that rotates already is waited for, not rotated twice
    assert rotation["id"] in everything["detail"]["rotations"]
    arrived(api.database)
    until(lambda: {state_of(api, order.json["id"]), state_of(api, everything["id"])} == {"done"})
    by_name = api.ask("POST", "/v1/vps/vps-1/rotate", {"names": ["ENCRYPTION_KEY"], "reason": "asked for"})
    assert by_name.json["detail"]["names"] == ["ENCRYPTION_KEY"]
    by_hand = api.ask("POST", "/v1/vps/vps-1/rotate", {"names": ["SMTP_PASSWORD"], "reason": "no"})
    assert (by_hand.status, by_hand.problem) == (409, "nothing-to-rotate")


def test_a_rotation_that_is_given_up_fails_its_operation(api: Api) -> None:
    """With words that say where to look."""
    provision(api)
    as_the_worker(api.database)
    order = api.ask("POST", "/v1/vps/vps-1/rotate", {"names": ["DATABASE_URL"], "reason": "r"}).json["id"]
    with api.database.write() as c:
        (row,) = rotations.open_of(c, "vps-1")
        rotations.progress(c, row.id, "given-up", time.time())
    until(lambda: state_of(api, order) == "failed")
    assert "given up" in api.ask("GET", f"/v1/operations/{order}").json["error"]


def test_a_rollback_lists_the_former_versions(api: Api) -> None:
    """The newest that is still there, of each name of the group; else it is refused."""
    provision(api)
    as_the_worker(api.database)
    order = {"names": ["JWT_SECRET"], "reason": "sessions break"}
    assert api.ask("POST", "/v1/vps/vps-1/rollback", order).problem == "no-former-version"
    with api.database.write() as c:
        now = time.time()
        made = [
            Made(SecretName(name), Version(uuid), created, Marks("r", "random"))
            for name, uuid, created in (
                ("JWT_SECRET", OLD, now - 2 * DAY_S),
                ("SESSION_SECRET", OLD.replace("1111-4", "1112-4"), now - 2 * DAY_S),
            )
        ]
        secrets.versions_seen(c, now, "vps-1", made)
    answer = api.ask("POST", "/v1/vps/vps-1/rollback", order)
    assert answer.status == 202
    with api.database.read() as c:
        (row,) = rotations.open_of(c, "vps-1")
    assert (row.reason, row.targets["JWT_SECRET"]) == ("rollback", OLD)


def test_what_is_lost_is_told_from_what_was_never_there(api: Api) -> None:
    """By the contract, and by the command: a key that never rotates does not come back by itself."""
    provision(api)
    as_the_worker(api.database)
    with api.database.write() as c:
        rows = [each for each in secrets.of(c, "vps-1") if each.name != "ENCRYPTION_KEY"]
        seen = [
            SeenSecret(row.name, row.kind, row.grp, row.current, row.created, row.due, row.work_at)
            for row in rows
        ]
        lost = SeenSecret("ENCRYPTION_KEY", "random", "ENCRYPTION_KEY", remark="is missing: a person decides")
        secrets.seen(c, "vps-1", [*seen, lost])
    shown = api.ask("GET", "/v1/vps/vps-1").json["secrets"]
    assert [each["name"] for each in shown if each["lost"]] == ["ENCRYPTION_KEY"]
    assert [each["remark"] for each in shown] == [None, "is missing: a person decides", None, None, None]
    assert "is missing: a person decides" in api.ask("GET", "/vps/vps-1").body.decode()
    assert [each["name"] for each in shown if not each["version"]] == ["ENCRYPTION_KEY", "SMTP_PASSWORD"]
    ran = subprocess.run(
        [sys.executable, "-m", "deployer.cli", "vps", "show", "vps-1"],
        cwd=ROOT,
        env=os.environ | {"VPS_SECRETS_DEPLOY_SOCKET": str(api.socket)},
        capture_output=True,
        text=True,
        check=True,
    )
    states = {words[0]: words[3] for line in ran.stdout.splitlines() if len(words := line.split()) > 3}
    assert (states["ENCRYPTION_KEY"], states["SMTP_PASSWORD"]) == ("lost", "wanted")
    assert "\nENCRYPTION_KEY: is missing: a person decides\n" in ran.stdout


def test_two_vpss_never_get_the_same_roles_of_a_database(api: Api) -> None:
    """Each rotation of one would lock the other out; with {vps} in both names there is no limit."""
    roles = 'kind = "postgresql"\nserver = "db1"\nrotate = "30d"\ntemplate = "{role}:{password}"\n'
    shared = f'[URL]\n{roles}roles = ["app_a", "app_b"]\n'
    with api.database.write() as c:
        blueprints.put(c, time.time(), "shared", shared, "unix:ops")
        blueprints.put(c, time.time(), "own", shared.replace("app_", "{vps}_"), "unix:ops")
    wishes = [api.ask("PUT", f"/v1/vps/vps-{n}", {"blueprint": "shared"}) for n in (1, 2, 1)]
    assert [answer.status for answer in wishes] == [202, 409, 200]
    assert "the database's roles are those of vps-1" in wishes[1].json["detail"]
    assert [api.ask("PUT", f"/v1/vps/vps-{n}", {"blueprint": "own"}).status for n in (3, 4)] == [202, 202]
    moved = api.ask("PUT", "/v1/vps/vps-3", {"blueprint": "shared"})
    assert (moved.status, moved.problem) == (409, "conflict")


def test_an_emergency_comes_before_everything(api: Api) -> None:
    """All groups that can be made anew, and the VPS is looked at first."""
    provision(api)
    as_the_worker(api.database)
    answer = api.ask("POST", "/v1/vps/vps-1/emergency", {"reason": "break-in"})
    assert answer.status == 202
    assert answer.json["detail"]["byHand"] == ["ENCRYPTION_KEY", "SMTP_PASSWORD"]
    identity, never, given = answer.json["detail"]["toDo"]
    assert "emergency vps-1 --new-identity" in identity
    assert never.startswith("ENCRYPTION_KEY: never rotates")
    assert given.endswith("vps-secrets-deploy set vps-1 SMTP_PASSWORD")
    with api.database.read() as c:
        assert {row.reason for row in rotations.open_of(c, "vps-1")} == {"compromised"}
        row = vpses.get(c, "vps-1")
    assert row is not None
    assert row.urgent == vpses.EMERGENCY


def test_an_emergency_that_asks_for_another_identity_shuts_out(api: Api) -> None:
    """In one transaction; what a first one had not finished is given up; it says what to type next."""
    provision(api)
    as_the_worker(api.database)
    first = api.ask("POST", "/v1/vps/vps-1/emergency", {"reason": "a leak"}).json
    answer = api.ask("POST", "/v1/vps/vps-1/emergency", {"reason": "break-in", "identity": "new"})
    assert "vps-secrets-deploy vps claim vps-1 --again" in answer.json["detail"]["toDo"][0]
    with api.database.read() as c:
        row = vpses.get(c, "vps-1")
        orders = [rotations.get(c, each) for each in first["detail"]["rotations"]]
        there = {each.id for each in rotations.open_of(c, "vps-1")}
    assert row is not None
    assert (row.wanted, row.urgent) == ("revoked", vpses.EMERGENCY)
    assert {each and each.state for each in orders} == {"given-up"}
    assert there == set(answer.json["detail"]["rotations"])
    assert api.ask("POST", "/v1/vps/vps-1/claim").problem == "conflict"
    refused = api.ask("POST", "/v1/vps/vps-1/emergency", {"reason": "r", "identity": "other"})
    assert (refused.status, refused.problem) == (400, "bad-body")


def test_access_is_taken_away_given_back_and_ended(api: Api) -> None:
    """Each is done when the worker has seen that it is so."""
    provision(api)
    as_the_worker(api.database)
    revoked = api.ask("POST", "/v1/vps/vps-1/revoke", {"reason": "left"}).json["id"]
    assert state_of(api, revoked) == "wanted"
    as_the_worker(api.database)
    until(lambda: state_of(api, revoked) == "done")
    assert api.ask("GET", "/v1/vps/vps-1").json["vps"]["look"] == "revoked"
    back = api.ask("POST", "/v1/vps/vps-1/restore-access", {"reason": "came back"}).json["id"]
    as_the_worker(api.database)
    until(lambda: state_of(api, back) == "done")
    refused = api.ask("POST", "/v1/vps/vps-1/retire", {"reason": "old", "confirm": "vps-2"})
    assert (refused.status, refused.problem) == (409, "not-confirmed")
    retired = api.ask("POST", "/v1/vps/vps-1/retire", {"reason": "old", "confirm": "vps-1"}).json["id"]
    again = api.ask("POST", "/v1/vps/vps-1/restore-access", {"reason": "no"})
    assert (again.status, again.problem) == (409, "conflict")
    assert api.ask("PUT", "/v1/vps/vps-1", WISH).problem == "conflict"
    with api.database.write() as c:
        vpses.claim_due(c, time.time(), "w", 60.0)
        vpses.forget(c, time.time(), "vps-1", "w")
    until(lambda: state_of(api, retired) == "done")
    assert api.ask("GET", "/v1/vps/vps-1").problem == "no-such-vps"
    assert api.ask("GET", "/v1/history?vps=vps-1").json["items"][0]["action"] == "vps.gone"


def test_a_vps_that_is_shut_out_by_half_is_not_revoked(api: Api) -> None:
    """Its ACLs name nobody, and its user could not be disabled: that is told, and not as done."""
    provision(api)
    as_the_worker(api.database)
    revoked = api.ask("POST", "/v1/vps/vps-1/revoke", {"reason": "left"}).json["id"]
    for failures in (1, 2):
        assert state_of(api, revoked) == "wanted"
        now = time.time()
        with api.database.write() as c:
            vpses.wake(c, "vps-1")
            assert vpses.claim_due(c, now, "w", 60.0) is not None
            vpses.seen(c, now, "vps-1", "w", granted_to="", looked_at=now)
            error = "disable the Keystone user of vps-1: the registrar does not answer"
            vpses.release(c, now, "vps-1", "w", now + 60, failures=failures, error=error)
    until(lambda: state_of(api, revoked) == "failed")
    said = api.ask("GET", f"/v1/operations/{revoked}").json["error"]
    assert "reads nothing; its user is not disabled yet: disable the Keystone user" in said
    assert "goes on trying" in said


def test_many_rotate_in_waves_over_a_restart(api: Api) -> None:
    """By labels; the second wave waits; an API that is killed in between goes on where it was."""
    for number in range(4):
        labels = {"env": "stage" if number == 3 else "prod"}
        provision(api, f"vps-{number}", {"blueprint": "backend", "labels": labels, "wave": number})
        as_the_worker(api.database, f"vps-{number}")
    for slip in ({"labels": {"env": "prodd"}}, {"all": True, "names": ["JWT_SECRT"]}):
        refused = api.ask("POST", "/v1/rotate", {"reason": "a slip", **slip})
        assert (refused.status, refused.problem) == (409, "nothing-to-rotate")
    assert [one["kind"] for one in api.ask("GET", "/v1/operations").json["items"]].count("rotate-many") == 0
    nobody = api.ask("POST", "/v1/rotate", {"reason": "all?"})
    assert (nobody.status, nobody.problem) == (409, "not-confirmed")
    order: dict[str, Any] = {"reason": "CVE", "labels": {"env": "prod"}, "names": ["JWT_SECRET", "ABSENT"]}
    order["waveInterval"] = 3600
    operation = api.ask("POST", "/v1/rotate", order).json["id"]

    def begun() -> list[str]:
        with api.database.read() as c:
            return [f"vps-{number}" for number in range(4) if rotations.open_of(c, f"vps-{number}")]

    until(lambda: begun() == ["vps-0"])
    assert api.end(signal.SIGKILL) == -signal.SIGKILL
    assert begun() == ["vps-0"], "the next wave has not come"
    with api.database.write() as c:  # as if the hours had passed
        c.execute(update(schema.operation).values(created_at=schema.operation.c.created_at - 7200.0))
    api.start()
    until(lambda: begun() == ["vps-0", "vps-1", "vps-2"])
    arrived(api.database, "vps-0")
    until(lambda: api.ask("GET", f"/v1/operations/{operation}").json["done"] == 1)
    for number in (1, 2):
        arrived(api.database, f"vps-{number}")
    until(lambda: state_of(api, operation) == "done")
    with api.database.read() as c:
        assert len(rotations.page(c)) == 3  # nothing was begun twice
    assert api.ask("GET", f"/v1/operations/{operation}").json["total"] == 3


def test_the_history_is_heard_as_it_is_written(api: Api) -> None:
    """A listener that comes back gets what it missed, once; every event is an entry of the history."""
    provision(api)
    connection = UnixConnection(api.socket, timeout=60.0)
    connection.request("GET", "/v1/events", headers={"Last-Event-ID": "0"})
    stream = connection.getresponse()
    assert stream.getheader("content-type") == "text/event-stream"
    heard = lines(stream)
    ids = []
    for line in heard:
        if line.startswith("id: "):
            ids.append(int(line[4:]))
        if '"vps.wish"' in line:
            break
    api.ask("PUT", "/v1/vps/vps-2", WISH)
    assert any('"vps-2"' in line and '"vps.wish"' in line for line in heard)
    assert ids == sorted(set(ids))
    with contextlib.closing(connection):
        api.end()
        assert not any("data" in line for line in heard)


def test_a_listener_too_many_is_told() -> None:
    """With a word when to come again."""
    with Api(api="[api.limits]\nevent_streams = 1\n") as api:
        first = UnixConnection(api.socket, timeout=60.0)
        with contextlib.closing(first):
            first.request("GET", "/v1/events")
            assert first.getresponse().readline().startswith(b":")
            second = api.ask("GET", "/v1/events")
            assert (second.status, second.problem, second.headers["retry-after"]) == (429, "too-many", "10")
        until(lambda: _listens(api))


def _listens(api: Api) -> bool:
    connection = UnixConnection(api.socket, timeout=60.0)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/events")
        return connection.getresponse().status == 200


def test_figures_for_people_and_prometheus(api: Api) -> None:
    """What is late is counted by its look and by its rotation."""
    provision(api)
    as_the_worker(api.database)
    with api.database.write() as c:
        now = time.time()
        rotations.want(
            c, now, "vps-1", "session", ["JWT_SECRET"], reason="schedule", asked_by="worker", due=now - 600
        )
    figures = api.ask("GET", "/v1/figures").json
    assert figures["vps"] == {
        "late": 1, "failing": 0, "joining": 0, "expiring": 0, "revoked": 0, "retired": 0, "fine": 0,
    }  # fmt: skip
    assert figures["rotations"]["due"] == figures["rotations"]["late"] == 1
    (late,) = api.ask("GET", "/v1/rotations?state=overdue").json["items"]
    assert late["vps"] == "vps-1"
    text = api.ask("GET", "/metrics").body.decode()
    assert 'vps_secrets_deployer_vps{look="late"} 1.0' in text
    assert "vps_secrets_deployer_rotations_overdue 1.0" in text
    assert 'vps_secrets_deployer_api_requests_total{operation="wishVps",status="202"} 1.0' in text
    worst = float(text.rpartition("vps_secrets_deployer_rotation_worst_overdue_seconds ")[2].split()[0])
    assert 600 <= worst < 6000


def test_pages_of_lists(api: Api) -> None:
    """Each tells where the next one begins."""
    for number in range(5):
        provision(api, f"vps-{number}", {"blueprint": "backend", "labels": {"odd": str(number % 2)}})
    found, after = [], ""
    while True:
        page = api.ask("GET", f"/v1/vps?limit=2{after}").json
        found += [each["id"] for each in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert found == [f"vps-{number}" for number in range(5)]
    odd = api.ask("GET", "/v1/vps?label=odd=1&state=joining").json["items"]
    assert [each["id"] for each in odd] == ["vps-1", "vps-3"]
    assert api.ask("GET", "/v1/vps?state=late").json["items"] == []
    entries, before = [], ""
    while True:
        page = api.ask("GET", f"/v1/history?limit=3{before}").json
        entries += [each["id"] for each in page["items"]]
        if page["next"] is None:
            break
        before = f"&before={page['next']}"
    assert entries == sorted(entries, reverse=True)
    assert len(entries) == len(set(entries)) == 11
    assert len(api.ask("GET", "/v1/operations?vps=vps-2&state=wanted").json["items"]) == 1


def test_what_there_is_to_read(api: Api) -> None:
    """The contract itself, the blueprints, no keys yet, no backups yet."""
    assert api.ask("GET", "/v1/openapi.json").json["openapi"] == "3.1.0"
    (blueprint,) = api.ask("GET", "/v1/blueprints").json["items"]
    assert blueprint["name"] == "backend"
    assert "text" not in blueprint
    assert api.ask("GET", "/v1/keys").json == {"keys": []}
    assert api.ask("GET", "/v1/backups").json == {"items": []}
    with api.database.write() as c:
        checks.record(c, 1.0, "cloud: access rules bind", passed=False, detail={"account": "vps-1"})
    assert api.ask("GET", "/v1/checks").json == {
        "items": [
            {"name": "cloud: access rules bind", "at": 1.0, "passed": False, "detail": {"account": "vps-1"}}
        ]
    }
    head = api.ask("HEAD", "/v1/vps")
    assert (head.status, head.body) == (200, b"")


def test_an_operation_goes_on_when_its_caller_leaves(api: Api) -> None:
    """It asks, and hangs up before the answer."""
    for number in range(20):
        connection = UnixConnection(api.socket, timeout=60.0)
        connection.request(
            "PUT",
            f"/v1/vps/vps-{number}",
            b'{"blueprint": "backend"}',
            {"Content-Type": "application/json"},
        )
        connection.close()
    until(lambda: len(api.ask("GET", "/v1/vps").json["items"]) == 20)
    with api.database.read() as c:
        assert len(operations.unfinished(c)) == 20
        assert len(history.page(c)) == 41


def test_an_orderly_end(api: Api) -> None:
    """What is asked is answered, and the socket goes; a dead one's socket is in nobody's way."""
    provision(api)
    assert api.end() == 0
    assert not api.socket.exists()
    api.start()
    api.end(signal.SIGKILL)
    assert api.socket.exists()
    api.start()
    assert api.ask("GET", "/v1/vps/vps-1").status == 200
    assert api.log.read_text().count("Traceback") == 0


def test_a_backup_that_failed_is_told_everywhere(tmp_path: Path) -> None:
    """To Prometheus, by ``status`` and its exit status, on the fleet's page; until one is good."""
    place = f'[[backup]]\nname = "nearby"\ndirectory = "{tmp_path}"\nrecipients = ["age1{"q" * 58}"]\n'
    with Api(place) as api:
        command = [
            *(sys.executable, "-m", "deployer.cli", "status"),
            *("--socket", str(api.socket)),
        ]

        def told() -> tuple[str, int, str]:
            gauge = api.ask("GET", "/metrics").body.decode()
            page = api.ask("GET", "/", headers={"Accept": "text/html"}).body.decode()
            said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
            return gauge, said.returncode, said.stdout + page

        gauges, code, said = told()
        assert 'vps_secrets_deployer_backup_age_seconds{place="nearby"} +Inf' in gauges
        assert (code, said.count("no backup has been made yet")) == (1, 2)
        where = f"directory {tmp_path}"
        with api.database.write() as c:
            backups.failed(c, time.time(), backups.begin(c, time.time(), where, "test"), "the disk is full.")
        gauges, code, said = told()
        assert "vps_secrets_deployer_backups_failing 1.0" in gauges
        assert (code, said.count("the last try failed: the disk is full.")) == (1, 2)
        with api.database.write() as c:
            good = backups.begin(c, time.time(), where, "test")
            backups.written(c, time.time(), good, "a", "d", size=1, vpses=0, secrets=0)
        gauges, code, said = told()
        assert "vps_secrets_deployer_backups_failing 0.0" in gauges
        assert (code, "disk" in said) == (0, False)


def test_the_command_says_why_it_waits_in_vain(api: Api) -> None:
    """For the worker, with which failure, for the agent; that is what a person would ask next."""

    def command(*words: str) -> tuple[int, str]:
        line = [sys.executable, "-m", "deployer.cli", *words, "--socket", str(api.socket)]
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
        return done.returncode, done.stdout + done.stderr

    def waited(operation: str) -> str:
        code, said = command("operation", operation, "--timeout", "100ms")
        assert (code, "is not done after" in said) == (1, True)
        return said.partition("goes on")[2]

    operation = provision(api)
    assert waited(operation).startswith(". The worker has not looked at it yet: systemctl status")
    with api.database.write() as c:
        row = vpses.claim_due(c, time.time(), "w", 60.0)
        assert row is not None
        vpses.release(
            c, time.time(), row.id, "w", next_look=time.time() + 60, failures=1, error="Barbican is away"
        )
    assert waited(operation).startswith(". Last failure: Barbican is away; see: vps-secrets-deploy operation")
    as_the_worker(api.database)
    rotation = api.ask("POST", "/v1/vps/vps-1/rotate", {"reason": "r", "names": ["JWT_SECRET"]}).json
    with api.database.write() as c:
        for order in rotations.open_of(c, "vps-1"):
            rotations.progress(c, order.id, "listed", time.time())
        vpses.claim(c, time.time(), "vps-1", "w", 60.0)
        vpses.seen(c, time.time(), "vps-1", "w", looked_at=time.time())
        vpses.release(c, time.time(), "vps-1", "w", next_look=time.time() - 301)
    assert waited(rotation["id"]).startswith(". All is listed; the agent takes it at its next poll")
    code, said = command("status")
    assert (code, "the worker does not come: 1 VPSs wait for it" in said) == (1, True)
    assert "vps_secrets_deployer_vps_waiting 1.0" in api.ask("GET", "/metrics").body.decode()


def test_what_is_refused_is_told_with_place_and_rule(api: Api) -> None:
    """By the command, too: which field breaks which rule, and what of it is not made yet."""

    def command(*words: str) -> tuple[int, str]:
        line = [sys.executable, "-m", "deployer.cli", *words, "--socket", str(api.socket)]
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
        return done.returncode, done.stderr

    provision(api)
    code, said = command("rotate", "vps-1", "--reason", "")
    assert (code, "/reason must have this many characters or more: 1" in said) == (1, True), said
    code, said = command("rollback", "vps-1", "JWT_SECRET", "--reason", "r")
    assert (code, "nothing was made for this VPS yet" in said) == (1, True), said
    code, said = command("vps", "show", "vps-2")
    assert (code, "vps-secrets-deploy vps list" in said) == (1, True), said
