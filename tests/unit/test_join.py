"""agent/cli/join*.py: what a claim is, what a machine refuses; the rest: tests/cloud, tests/system."""

from __future__ import annotations

import io
import json
import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agent.cli import join, join_claim, join_machine, join_remains, setup_files
from agent.cli.__main__ import _parser
from agent.cli.join_claim import Claim, ClaimError
from agent.cli.join_steps import JoinError, LaterError, Patience
from agent.identity.errors import IdentityError
from deployer.core.user_data import cloud_config

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "one-time-canary-5d1c"
UUID = "8a1f7f0e-3d0b-4f6e-9a51-2f0a0d6a7c11"
TOLD: dict[str, Any] = {
    "operation": "0",
    "vps": "vps-1",
    "userId": "0" * 32,
    "oneTimePassword": PASSWORD,
    "container": UUID,
    "authUrl": "https://keystone.example",
    "user": "recruitiq",
    "sealing": "required",
}
BY_HAND = 'vps_id = "vps-1"\n[keystone]\napplication_credential_id = "x"\n'
CLAIM = Claim("vps-1", "0" * 32, "https://keystone.example/v3", UUID, PASSWORD)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where join keeps its claim."""
    monkeypatch.setattr(join_claim, "STATE", tmp_path / "state")
    monkeypatch.setattr(setup_files, "DIRECTORY", tmp_path / "etc")
    monkeypatch.setattr(setup_files, "DRAFT", tmp_path / ".draft")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path / "state"


def run(*options: str) -> int:
    """Run the command."""
    return join.run(_parser(["join"]).parse_args(["join", *options]))


def test_a_claim_is_read() -> None:
    """As the API answers it, and as user data has it; the password is not shown."""
    claim = join_claim.parse(json.dumps(TOLD).encode())
    assert (claim.vps_id, claim.auth_url, claim.container_id) == (
        "vps-1",
        "https://keystone.example/v3",
        UUID,
    )
    assert (claim.user, claim.unit, claim.sealed) == ("recruitiq", None, True)
    assert (PASSWORD in repr(claim)) is False
    first, _, rest = cloud_config(TOLD).partition("\n")
    content = json.loads(rest)
    assert first == "#cloud-config"
    (file,) = content["write_files"]
    assert (file["path"], file["permissions"]) == (str(join_claim.STATE / join_claim.FILE), "0600")
    assert join_claim.parse(file["content"].encode()) == claim
    assert content["runcmd"] == [["systemctl", "start", "--no-block", "vps-secrets-join.service"]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vps": "../x"}, "vps of the claim"),
        ({"userId": "a/b"}, "userId of the claim"),
        ({"container": None}, "container of the claim"),
        ({"authUrl": "ftp://x"}, "authUrl of the claim"),
        ({"authUrl": "http://keystone.example/v3"}, "authUrl of the claim"),
        ({"oneTimePassword": ""}, "oneTimePassword of the claim"),
        ({"oneTimePassword": PASSWORD * 40}, "oneTimePassword is not one printable line"),
        ({"sealing": "maybe"}, "neither required nor off"),
        ({"user": 7}, "user is not a string"),
    ],
)
def test_a_claim_is_checked(changes: dict[str, Any], words: str) -> None:
    """What is wrong is named, and nothing is quoted."""
    with pytest.raises(ClaimError, match=words) as caught:
        join_claim.parse(json.dumps(TOLD | changes).encode())
    assert caught.value.__context__ is None
    assert (PASSWORD in str(caught.value)) is False


def kept_claim(state: Path) -> Claim | None:
    """Return the claim that a run has kept, if there is one."""
    path = state / join_claim.FILE
    return join_claim.parse(path.read_bytes()) if path.exists() else None


def test_a_file_is_taken_and_wiped(state: Path, tmp_path: Path) -> None:
    """It is kept for the next run, for root only; a link to it is not followed when it is wiped."""
    file = tmp_path / "claim.json"
    file.write_text(json.dumps(TOLD))
    copy = tmp_path / "hard link"
    copy.hardlink_to(file)
    assert join_claim.take(str(file), io.BytesIO(), state).vps_id == "vps-1"
    assert not file.exists()
    assert set(copy.read_bytes()) == {0}
    kept = state / join_claim.FILE
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert kept_claim(state) == join_claim.take(str(kept), io.BytesIO(), state)
    assert kept.exists()
    join_claim.take("-", io.BytesIO(json.dumps(TOLD | {"vps": "vps-2"}).encode()), state)
    again = kept_claim(state)
    assert again is not None
    assert again.vps_id == "vps-2"
    assert not again.keep
    assert join_claim.take(str(kept), io.BytesIO(), state, keep=True).keep
    assert kept_claim(state) == replace(again, keep=True), "a run that systemd starts goes on so"
    assert join_claim.take(str(kept), io.BytesIO(), state).keep
    join_claim.wipe(kept)
    join_claim.wipe(kept)
    assert kept_claim(state) is None
    link = tmp_path / "link"
    link.symlink_to(copy)
    with pytest.raises(ClaimError, match="delete it by hand"):
        join_claim.wipe(link)


def test_the_password_is_overwritten_where_cloud_init_keeps_it(tmp_path: Path) -> None:
    """Files keep length, mode and the rest; links, large files and missing places are left alone."""
    instance = tmp_path / "cloud" / "instances" / "1"
    instance.mkdir(parents=True)
    texts = {"user-data.txt": f"a {PASSWORD} b {PASSWORD}", "obj.pkl": f"\0{PASSWORD}\0", "other": "nothing"}
    for name, text in texts.items():
        (instance / name).write_text(text)
        (instance / name).chmod(0o400)
    (elsewhere := tmp_path / "elsewhere").write_text(PASSWORD)
    (instance / "link").symlink_to(elsewhere)
    (instance / "large").write_text(PASSWORD + "." * join_remains.MAX_BYTES)
    done, left = join_remains.blot(PASSWORD, [tmp_path / "cloud", tmp_path / "nothing"])
    assert (done, left) == ([instance / "obj.pkl", instance / "user-data.txt"], [])
    for name, text in texts.items():
        blotted = text.replace(PASSWORD, "x" * len(PASSWORD))
        assert (instance / name).read_text() == blotted
        assert stat.S_IMODE((instance / name).stat().st_mode) == 0o400
    assert elsewhere.read_text() == PASSWORD
    assert PASSWORD in (instance / "large").read_text()


def test_what_is_no_claim_is_left_alone(state: Path, tmp_path: Path, capsys: Any) -> None:
    """Usage, and nothing is kept."""
    file = tmp_path / "claim.json"
    for text in ("", "no JSON", "x" * (join_claim.MAX_BYTES + 1), json.dumps(TOLD | {"vps": None})):
        file.write_text(text)
        assert run("--claim", str(file)) == join.USAGE
        assert file.read_text() == text
    assert run("--claim", str(tmp_path / "none")) == join.USAGE
    assert run() == join.USAGE
    assert "there is no claim" in capsys.readouterr().err
    assert not state.exists()


def test_only_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody else is told."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run() == join.PERMISSION


def test_what_can_not_go_on_is_told_by_its_status(state: Path, tmp_path: Path, capsys: Any) -> None:
    """The claim stays for the next run; nothing was asked of the cloud."""
    claim = tmp_path / "claim.json"
    claim.write_text(json.dumps(TOLD | {"user": None}))
    configuration = setup_files.DIRECTORY / setup_files.CONFIGURATION
    configuration.parent.mkdir(parents=True)
    configuration.write_text(BY_HAND)
    assert run("--claim", str(claim), "--no-start") == join.NO
    assert "give --keep" in capsys.readouterr().err
    for options in (["--keep"], []):  # the claim was kept, and then with it what was said
        assert run(*options, "--no-start") == join.NO
        assert "--keep needs the running agent" in capsys.readouterr().err
    configuration.write_bytes(b"\xff")
    assert run("--no-start") == join.NO
    assert "can't write" in capsys.readouterr().err
    assert (state / join_claim.FILE).exists()


def test_a_machine_that_is_set_up() -> None:
    """By hand: with --keep only; as another VPS: never; by join, or not at all: yes."""
    for configuration in (None, "", 'vps_id = "vps-2"\n', "[fetch]\n"):
        join_machine.check(configuration, CLAIM, keep=False, ours=False)
    join_machine.check(BY_HAND, CLAIM, keep=True, ours=False)
    join_machine.check(BY_HAND, CLAIM, keep=False, ours=True)
    with pytest.raises(JoinError, match="give --keep"):
        join_machine.check(BY_HAND, CLAIM, keep=False, ours=False)
    for keep in (False, True):
        with pytest.raises(JoinError, match="set up as vps-2"):
            join_machine.check(BY_HAND.replace("vps-1", "vps-2"), CLAIM, keep=keep, ours=True)


def test_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may pass is waited for, once said; what can't is raised; the end is told with the reason."""
    monkeypatch.setattr("agent.cli.join_steps.AGAIN_S", 0.0)
    said: list[str] = []
    passing = IdentityError("log in", "no answer in time", retriable=True)
    answers: list[int | None] = [None, None, None, 7]

    def step() -> int | None:
        answer = answers.pop(0)
        if len(answers) == 2:
            raise passing
        return answer

    assert Patience(float("inf"), said.append).wait(step, "not there") == 7
    assert [line.partition(";")[0] for line in said] == [
        "waiting        not there",
        "waiting        log in: no answer in time",
        "waiting        not there",
    ]
    with pytest.raises(LaterError, match="not there"):
        Patience(0.0, said.append).wait(lambda: None, "not there")

    def refused() -> None:
        raise IdentityError("log in", "HTTP 403", status=403, retriable=False)

    with pytest.raises(IdentityError, match="HTTP 403"):
        Patience(float("inf"), said.append).do(refused)
