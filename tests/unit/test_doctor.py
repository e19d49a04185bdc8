"""The judgements of ``vps-secrets doctor``: of the agent's report, of sockets, users and files."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from agent.cli import doctor_machine, doctor_status, setup_machine
from agent.config import reader
from common.finding import FAILURE, OK, WARNING

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_795_000_000.0
WELL: dict[str, Any] = {
    "state": "ready",
    "agent": {"version": "1", "uptime": 60.0},
    "secrets": [{"name": "A"}, {"name": "B"}],
    "confirmedAge": 10.0,
    "nextAttemptIn": 20.0,
    "memory": {"kind": "memfd_secret", "kept": True},
    "beacon": None,
}


def told(changes: dict[str, Any]) -> set[tuple[str, str]]:
    """Return what is not well."""
    found = doctor_status.findings(WELL | changes, NOW)
    return {(one.level, one.what) for one in found if one.level != OK}


def at(days: float) -> str:
    """Return a date as the status has it."""
    return datetime.fromtimestamp(NOW + days * 86400, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_all_is_well() -> None:
    """Nothing but ok."""
    assert told({}) == set()
    assert told({"credentialExpires": at(80), "beacon": {"state": "watching"}}) == set()


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"state": "stale"}, (WARNING, "agent")),
        ({"state": "denied", "notReady": "access was taken away"}, (FAILURE, "agent")),
        ({"state": "starting"}, (FAILURE, "agent")),
        ({"configurationError": "agent.toml: x"}, (FAILURE, "configuration")),
        ({"failure": {"step": "DNS", "tried": "t", "advice": "a"}}, (FAILURE, "reading")),
        ({"pending": ["C"]}, (FAILURE, "secrets")),
        ({"secrets": [{"name": "A", "stale": True}]}, (WARNING, "secrets")),
        ({"credentialExpires": at(13)}, (WARNING, "credential")),
        ({"credentialExpires": at(0.5)}, (FAILURE, "credential")),
        ({"credentialExpires": "soon"}, (FAILURE, "credential")),
        ({"memory": {"kind": "memfd", "kept": False, "whyNotKept": "swap"}}, (WARNING, "memory")),
        ({"beacon": {"state": "failing", "failure": {"advice": "look"}}}, (WARNING, "beacon")),
        ({"warnings": ["something is odd"]}, (WARNING, "agent")),
        ({"denied": {"app": 3}}, (WARNING, "refusals")),
    ],
)
def test_what_is_not_well_is_told(changes: dict[str, Any], finding: tuple[str, str]) -> None:
    """Each alone; and with something to do, where the agent does not say it itself."""
    assert told(changes) == {finding}
    (one,) = (each for each in doctor_status.findings(WELL | changes, NOW) if each.level != OK)
    assert one.remedy or changes.keys() & {"warnings"} or "soon" in changes.values()


def test_sockets_users_and_files(tmp_path: Path) -> None:
    """Modes, names that are nobody's, a credential in the clear."""
    secret = tmp_path / "credential"
    secret.write_text("canary")
    path = tmp_path / "agent.toml"
    path.write_text(
        'vps_id = "vps-1"\ncontainer = "0b5a7c5e-2d0e-4c1c-9b0a-3f6f7d7d0b11"\n[keystone]\n'
        'auth_url = "https://k.example/v3"\napplication_credential_id = "id"\n'
        f'credential_file = "{secret}"\n[app]\nsocket = "{tmp_path}/app.sock"\n'
        f'[control]\nsocket = "{tmp_path}/control.sock"\n'
        '[[grant]]\nuser = "nobody-of-this-name"\nsecrets = ["*"]\n'
        '[[grant]]\nuser = "root"\nsecrets = ["A"]\n'
    )
    config = reader.load(path)
    with socket.socket(socket.AF_UNIX) as app:
        app.bind(f"{tmp_path}/app.sock")
        (tmp_path / "app.sock").chmod(0o666)
        found = {one.what: one for one in doctor_machine.sockets(config)}
        assert (found["app.sock"].level, found["control.sock"].level) == (WARNING, FAILURE)
        (tmp_path / "app.sock").chmod(0o660)
        assert next(iter(doctor_machine.sockets(config))).level == OK
    (one,) = doctor_machine.callers(config)
    assert (one.level, one.what) == (FAILURE, "grant 1")
    kept = next(iter(doctor_machine.keeping(config)))
    assert kept.level == WARNING
    assert "in the clear" in kept.words
    assert "canary" not in str(kept)
    assert [rule.covers("A") for rule in config.grants] == [True, True]
    assert [rule.covers("B") for rule in config.grants] == [True, False]


def test_a_sandbox_that_can_not_be_asked_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without systemd nothing restricts the programs; a systemctl that fails is a finding, no traceback."""
    monkeypatch.setattr(setup_machine, "RUNNING", tmp_path / "nothing")
    (found,) = doctor_machine.sandbox()
    assert (found.level, found.what) == (WARNING, "sandbox")
    monkeypatch.setattr(setup_machine, "RUNNING", tmp_path)
    monkeypatch.setitem(setup_machine._ENVIRONMENT, "PATH", str(tmp_path))
    failed = list(doctor_machine.sandbox())
    assert [(one.level, one.what) for one in failed] == [(FAILURE, "sandbox")] * len(doctor_machine.SHIPPED)
    assert "systemctl" in failed[0].words
