"""The isolation, proved: who may do what to whose secrets, on the newest release and on an older one.

The tables are the whole claim. ``1`` is vps-prod-001's, ``2`` is vps-prod-002's. Every cell is an HTTP status
that was asked for with a real account of that kind; a list also says how many secrets it showed.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent.fetch.metadata import Api, read_list
from common.names import Version
from lab.testbed.cloud import Cloud
from lab.testbed.testbed import Options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystoneauth1.session import Session

BUILD = Path(__file__).parents[2] / "build"

NEWEST = """
operation               | admin | developer | deployer | user-1 | agent-1 | agent-2
list                    | 200/0 | 200/0     | 200/2    | 403    | 401     | 401
container 1             | 403   | 403       | 200      | 200    | 200     | 403
container 2             | 403   | 403       | 200      | 403    | 403     | 200
metadata 1              | 200   | 403       | 401      | 200    | 200     | 403
metadata 2              | 200   | 403       | 401      | 403    | 403     | 200
payload 1               | 403   | 403       | 401      | 200    | 200     | 403
payload 2               | 403   | 403       | 401      | 403    | 403     | 200
payload by Accept 1     | 403   | 403       | 401      | 200    | 200     | 403
read ACL 1              | 403   | 403       | 200      | 403    | 401     | 401
write ACL 1             | 403   | 403       | -        | 403    | 401     | 401
write container ACL 1   | 403   | 403       | -        | 403    | 401     | 401
create                  | 201   | 201       | 201      | 403    | 401     | 401
add entry 1             | 403   | 403       | -        | 403    | 401     | 401
delete 1                | 204   | 404       | -        | 404    | 401     | 401
"""
# 23.0 lets role:admin of any project read metadata and delete (not decrypt): a loss, never a disclosure.
OLDER = (
    NEWEST.replace("metadata 1              | 200", "metadata 1              | 403")
    .replace("metadata 2              | 200", "metadata 2              | 403")
    .replace("| 204   | 404       | -        | 404 ", "| 403   | 403       | -        | 403 ")
)


@dataclass
class Actors:
    """Two VPSs, and a session for each kind of account."""

    cloud: Cloud
    sessions: dict[str, Session]
    refs: dict[str, str]
    table: str


def cells(table: str) -> Iterator[tuple[str, str, str]]:
    """Yield operation, actor and expected outcome."""
    head, *rows = [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]
    for operation, *expected in rows:
        yield from ((operation, actor, outcome) for actor, outcome in zip(head[1:], expected, strict=True))


@pytest.fixture(
    scope="module",
    params=[("cloud-venv", NEWEST), ("cloud-2025.1-venv", OLDER)],
    ids=["newest", "2025.1"],
)
def actors(request: pytest.FixtureRequest) -> Iterator[Actors]:
    """A cloud of each release with everybody in it."""
    venv, table = request.param
    with Cloud(Options(venv=BUILD / venv, token_cache_time=-1)) as cloud:
        first = cloud.vps("vps-prod-001", {"JWT_SECRET": b"one"})
        second = cloud.vps("vps-prod-002", {"JWT_SECRET": b"two"})
        accounts, runtime = cloud.accounts, cloud.runtime
        sessions = {
            "admin": accounts.log_in(
                accounts.user("admin-person", "recruitiq", ("admin", "creator", "member"))
            ),
            "developer": accounts.log_in(accounts.user("developer", "recruitiq", ("creator", "member"))),
            "deployer": cloud.deployment._session,
            "user-1": accounts.log_in(runtime["vps-prod-001"].user),
            "agent-1": accounts.log_in_with(runtime["vps-prod-001"].credential),
            "agent-2": accounts.log_in_with(runtime["vps-prod-002"].credential),
        }
        refs = {
            "secrets": f"{cloud.testbed.places.barbican_url}/v1/secrets",
            "container 1": first.container_ref,
            "container 2": second.container_ref,
            "secret 1": cloud.deployment.entries(first)[0].secret_ref,
            "secret 2": cloud.deployment.entries(second)[0].secret_ref,
        }
        yield Actors(cloud, sessions, refs, table)


def outcome(actors: Actors, operation: str, actor: str) -> str:
    """Make one call and return its status; for a list also how many secrets were seen."""
    kind, number = operation[:-2], operation[-1]
    refs, json = actors.refs, {"Accept": "application/json"}
    acl = {"read": {"users": [], "project-access": True}}
    entry = {"name": "vps-prod-001/X", "secret_ref": refs["secret 2"]}
    calls: dict[str, tuple[str, str, dict[str, Any]]] = {
        "container": ("GET", refs.get(f"container {number}", ""), {"headers": json}),
        "metadata": ("GET", refs.get(f"secret {number}", ""), {"headers": json}),
        "payload": (
            "GET",
            refs.get(f"secret {number}", "") + "/payload",
            {"headers": {"Accept": "application/octet-stream"}},
        ),
        "payload by Accept": ("GET", refs.get(f"secret {number}", ""), {"headers": {"Accept": "text/plain"}}),
        "read ACL": ("GET", refs["secret 1"] + "/acl", {"headers": json}),
        "write ACL": ("PUT", refs["secret 1"] + "/acl", {"json": acl}),
        "write container ACL": ("PUT", refs["container 1"] + "/acl", {"json": acl}),
        "add entry": ("POST", refs["container 1"] + "/secrets", {"json": entry}),
        "delete": ("DELETE", refs["secret 1"], {}),
        "list": ("GET", refs["secrets"], {"headers": json}),
        "create": ("POST", refs["secrets"], {"json": {"name": "x"}, "headers": json}),
    }
    method, url, more = calls[operation if operation in calls else kind]
    response = actors.sessions[actor].request(url, method, raise_exc=False, log=False, **more)
    if operation == "list" and response.status_code == 200:
        return f"200/{response.json()['total']}"
    return str(response.status_code)


def test_the_matrix(actors: Actors) -> None:
    """Every cell. The deletions come last, since one of them succeeds on the newest release."""
    found = [
        (operation, actor, expected, outcome(actors, operation, actor))
        for operation, actor, expected in cells(actors.table)
        if expected != "-"
    ]
    wrong = [f"{what}, {who}: {got}, not {expected}" for what, who, expected, got in found if got != expected]
    assert wrong == []
    assert len(found) > 75


def test_an_account_that_may_list_sees_its_own_only(actors: Actors) -> None:
    """``fetch.list_metadata``: with the roles and the access rule for it, what others have stays unseen.

    Its project is empty, and ACLs alone decide what else the list shows.
    """
    cloud, lister = actors.cloud, "vps-prod-003"
    vps = cloud.vps(lister, {"A": b"three", "B": b"three"}, lists=True)
    cloud.vps("vps-prod-004", {"A": b"four"}, lists=True)
    agent = cloud.accounts.log_in_with(cloud.runtime[lister].credential)
    everything, json = actors.refs["secrets"], {"Accept": "application/json"}

    def names(query: str) -> list[str]:
        answer = agent.get(f"{everything}?limit=100&{query}", headers=json, log=False).json()
        return sorted(secret["name"] for secret in answer["secrets"])

    assert names("acl_only=true") == [f"{lister}/A", f"{lister}/B"]
    assert names("acl_only=true&name=vps-prod-0%25") == [f"{lister}/A", f"{lister}/B"]
    assert names("acl_only=false") == names("") == []
    versions = {Version(entry.secret_ref[-36:]) for entry in cloud.deployment.entries(vps)}
    wanted = versions | {Version(str(uuid.uuid4()))}
    read, total = read_list(Api(agent, cloud.testbed.places.barbican_url), wanted)
    assert (set(read), total) == (set(versions), len(versions))
    actors.sessions["lister"] = agent
    refused = {what: outcome(actors, what, "lister") for what in ("metadata 2", "payload 2", "container 2")}
    assert set(refused.values()) == {"403"}
    denied = {what: outcome(actors, what, "lister") for what in ("create", "delete 1", "write ACL 1")}
    assert set(denied.values()) == {"401"}


def test_nobody_but_its_own_account_ever_decrypts(actors: Actors) -> None:
    """What the tables say of payloads, said once more by rule and for both VPSs."""
    readers = {
        (operation[-1], actor)
        for operation, actor, expected in cells(actors.table)
        if operation.startswith("payload") and expected == "200"
    }
    assert readers == {("1", "user-1"), ("1", "agent-1"), ("2", "agent-2")}
