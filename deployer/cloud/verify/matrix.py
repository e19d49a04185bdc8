"""The matrix: each operation, tried by each actor on throw-away objects; the answers' bodies are dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deployer.cloud.calls import call
from deployer.cloud.verify.report import Cell, Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystoneauth1.session import Session

    from deployer.cloud.verify.objects import Objects

ANY_STATUS: Final = range(100, 600)
SUCCESS: Final = range(200, 300)
REFUSED: Final = (401, 403, 404)
BY_RULES: Final = (401,)
"""What Barbican answers where an access rule does not allow it; to nothing else of ours."""
DEPLOYER, FIRST, SECOND = "deployer", "agent 1", "agent 2"
_OCTETS: Final = {"Accept": "application/octet-stream"}
_TEXT: Final = {"Accept": "text/plain"}
_JSON: Final = {"Accept": "application/json"}
_BYTES: Final = {"Content-Type": "application/octet-stream"}
_OPEN: Final = {"read": {"users": [], "project-access": True}}


class Operation(NamedTuple):
    """A request, below Barbican's ``/v1``."""

    name: str
    method: str
    path: str
    request: dict[str, Any]
    deployer: tuple[int, ...]
    """What the deployer must get; empty where it is not tried, since it may do that and would change it."""
    first: tuple[int, ...]
    second: tuple[int, ...]


def operations(first: Objects) -> tuple[Operation, ...]:
    """Return every operation, on the first VPS's objects; the last ones would destroy them."""
    secret, container = f"/secrets/{first.secret}", f"/containers/{first.container}"
    entry = {"name": f"{first.vps_id}/OTHER", "secret_ref": f"http://localhost/v1{secret}"}
    consumer = {"name": "verify", "URL": "urn:vps-secrets:verify"}
    accept, acl = {"headers": _JSON}, {"json": _OPEN}
    return (
        Operation("list secrets", "GET", "/secrets?limit=1", accept, (200,), REFUSED, REFUSED),
        Operation("read the container", "GET", container, accept, (200,), (200,), REFUSED),
        Operation("read the secret's facts", "GET", secret, accept, BY_RULES, (200,), REFUSED),
        Operation(
            "read the payload", "GET", f"{secret}/payload", {"headers": _OCTETS}, BY_RULES, (200,), REFUSED
        ),
        Operation("read it as text", "GET", secret, {"headers": _TEXT}, BY_RULES, (200, 406), REFUSED),
        Operation(
            "generate a key",
            "POST",
            "/orders",
            {"json": {"type": "key", "meta": {}}},
            BY_RULES,
            REFUSED,
            REFUSED,
        ),
        Operation(
            "register a consumer",
            "POST",
            f"{secret}/consumers",
            {"json": consumer},
            BY_RULES,
            BY_RULES,
            BY_RULES,
        ),
        Operation(
            "make a secret", "POST", "/secrets", {"json": {"name": first.vps_id}}, (), REFUSED, REFUSED
        ),
        Operation(
            "write a payload", "PUT", secret, {"data": b"x", "headers": _BYTES}, (409,), REFUSED, REFUSED
        ),
        Operation("add an entry", "POST", f"{container}/secrets", {"json": entry}, (), REFUSED, REFUSED),
        Operation("open the secret", "PUT", f"{secret}/acl", acl, (), REFUSED, REFUSED),
        Operation("open the container", "PUT", f"{container}/acl", acl, (), REFUSED, REFUSED),
        Operation("delete the container", "DELETE", container, {}, (), REFUSED, REFUSED),
        Operation("delete the secret", "DELETE", secret, {}, (), REFUSED, REFUSED),
    )


def cells(url: str, first: Objects, sessions: Mapping[str, Session]) -> Iterator[Cell]:
    """Try everything. ``url`` is Barbican's, with ``/v1``; ``sessions`` are of actors."""
    for operation in operations(first):
        expected_of = {DEPLOYER: operation.deployer, FIRST: operation.first, SECOND: operation.second}
        for actor, session in sessions.items():
            if expected := expected_of[actor]:
                yield Cell(operation.name, actor, tried(session, url, operation), expected)


def tried(session: Session, url: str, operation: Operation, **headers: str) -> int:
    """Make the request and return its status; the body is read and dropped."""
    request = operation.request | {"headers": operation.request.get("headers", {}) | headers}
    step = f"try to {operation.name}"
    return call(session, operation.method, url + operation.path, step, ANY_STATUS, **request).status


def findings(found: tuple[Cell, ...]) -> Iterator[Finding]:
    """Return what the wrong cells mean."""
    wrong = [cell for cell in found if not cell.good]
    reads = [cell for cell in wrong if cell.actor == DEPLOYER and "read" in cell.operation]
    if any(cell.status not in REFUSED for cell in reads):  # 406 is an answer about the payload, too
        yield Finding(
            "deployer-reads",
            "the deployment service can read payloads: give its application credential the access rules of "
            "cloud.toml, without GET /v1/secrets/*",
        )
    unbound = [cell for cell in wrong if cell.expected == BY_RULES and cell not in reads]
    if unbound:
        yield Finding(
            "rules-do-not-bind",
            f"access rules do not bind: {unbound[0].actor} could try to {unbound[0].operation} "
            f"(HTTP {unbound[0].status}, not 401): make the credential with its rules; if it has them, "
            "Barbican does not check them (service_type in [keystone_authtoken])",
        )
    for cell in wrong:
        if cell.expected != BY_RULES:
            yield Finding(
                "matrix",
                f"{cell.actor}, {cell.operation}: HTTP {cell.status}, and it should be "
                f"{' or '.join(map(str, cell.expected))}",
            )


def stolen(url: str, first: Objects, deployer: Session) -> Iterator[Finding]:
    """Try what a stolen credential of the deployer reads with Keystone's header for services."""
    operation = next(one for one in operations(first) if one.name == "read the payload")
    token = {"X-Service-Token": str(deployer.get_token())}
    if tried(deployer, url, operation, **token) in SUCCESS:
        yield Finding(
            "stolen-deployer-reads",
            "whoever steals the deployment service's credential can read payloads: Barbican's "
            "keystonemiddleware takes any token as X-Service-Token (up to 12.0); ask the provider for 13, or "
            "for service_token_roles_required",
            Severity.WEAKNESS,
        )
