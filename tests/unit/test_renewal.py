"""agent/core/renewal.py: when to renew, what a credential's file holds, what is told; and who reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config.model import CredentialSource
from agent.config.reader import load
from agent.core import renewal
from agent.core.renewal import DAY_S, Pair, Record
from agent.fetch import login
from agent.serve.host import renewal_file
from common.untrusted_json import MalformedError

NOW = 1_800_000_000.0
RECORD = Record("c1", NOW + 90 * DAY_S, NOW, NOW, NOW)


@pytest.mark.parametrize(("left", "due"), [(90, False), (30.1, False), (30, True), (1, True), (-300, True)])
def test_when_a_third_of_its_life_is_left(left: float, due: bool) -> None:  # noqa: FBT001  # pytest's
    """And whenever less is."""
    assert renewal.is_due(NOW + left * DAY_S, NOW) is due
    assert renewal.is_quiet(replace(RECORD, expires=NOW + left * DAY_S), "c1", NOW) is not due


def test_what_has_no_end_is_never_renewed() -> None:
    """And its next renewal has no date."""
    record = replace(RECORD, expires=None)
    assert (renewal.is_due(None, NOW), record.next, renewal.warning(record, NOW + 9e8)) == (False, None, "")


@pytest.mark.parametrize(
    ("record", "in_force"),
    [(Record(), "c1"), (Record(), ""), (RECORD, "c2"), (RECORD, ""), (replace(RECORD, pending=True), "c1")],
)
def test_who_does_not_know_asks(record: Record, in_force: str) -> None:
    """Another credential than the one that is written down, none, or a former one that is there still."""
    assert not renewal.is_quiet(record, in_force, NOW)


def test_what_an_operator_is_told() -> None:
    """A stranger before a failure before nobody who tries."""
    late = NOW + 64 * DAY_S
    assert renewal.warning(RECORD, NOW) == renewal.warning(RECORD, NOW + 62 * DAY_S) == ""
    assert "nobody tries" in renewal.warning(RECORD, late)
    failed = replace(RECORD, problem="Keystone does not answer")
    assert "Keystone does not answer; it is tried every hour" in renewal.warning(failed, late)
    assert "compromised" in renewal.warning(replace(failed, foreign=("EC2 credential a",)), late)


def test_the_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Long and odd words cut and escaped; nothing renews itself where there is none."""
    odd = replace(RECORD, problem="a\nb" * 1000, foreign=("\x1b" * 1000,) * 30, pending=True)
    found = renewal.parse(renewal.encode(odd))
    assert found.problem.startswith("a\\nba\\nb")
    assert (len(found.problem), len(found.foreign), found.pending) == (1000, 20, True)
    assert renewal.parse(renewal.encode(RECORD)) == RECORD
    configuration = tmp_path / "agent.toml"
    assert renewal_file.read(configuration) is None
    (tmp_path / renewal.RECORD).write_bytes(renewal.encode(RECORD))
    assert renewal_file.read(configuration) == RECORD
    (tmp_path / renewal.RECORD).write_bytes(b"{")
    damaged = renewal_file.read(configuration)
    assert damaged is not None
    assert "damaged" in renewal.warning(damaged, NOW)


@pytest.mark.parametrize("change", [{"expires": -1}, {"expires": "x"}, {"problem": "\n"}, {"more": 1}])
def test_a_record_that_is_none(change: dict[str, object]) -> None:
    """It is refused whole."""
    content = json.loads(renewal.encode(RECORD)) | change
    with pytest.raises(MalformedError):
        renewal.parse(json.dumps(content).encode())


def test_a_file_with_id_and_secret() -> None:
    """As the renewal writes it; a secret alone, as setup writes it, is none, whatever it looks like."""
    assert renewal.pair(Pair("c2", "s" * 86).content().decode()) == Pair("c2", "s" * 86)
    for other in ("s" * 86, "{", '{"id": "c2"}', '{"id": 1, "secret": "s"}', ""):
        assert renewal.pair(other) is None
    assert "sss" not in repr(Pair("c2", "sss"))


@pytest.mark.parametrize(("content", "credential"), [("secret", "of-the-file"), (None, "renewed")])
def test_fetch_logs_in_with_the_id_of_the_file(tmp_path: Path, content: str | None, credential: str) -> None:
    """Where there is one; else with that of the configuration, and another credential is another holder."""
    file = tmp_path / "credential"
    file.touch(0o600)
    file.write_text(content or Pair("renewed", "secret").content().decode())
    keystone = replace(
        load(Path("packaging/agent.toml")).keystone,
        credential=CredentialSource(file=file),
        application_credential_id="of-the-file",
        ca_file=None,
    )
    prepared = login.prepare(keystone, {})
    (method,) = prepared.plugin.auth_methods
    assert method.application_credential_id == credential
    assert method.application_credential_secret == "secret"


def test_the_password_is_tried_once_a_day() -> None:
    """More often where it was wrong, and where nobody knows when."""
    for tried, problem, checked in (
        (None, "", False),
        (1e9, "", True),
        (1e9 - renewal.CHECK_S, "", False),
        (1e9 + 1.0, "", False),  # the clock was set back
        (1e9, "refused", False),
    ):
        assert renewal.is_checked(Record(tried=tried, problem=problem), 1e9) is checked
