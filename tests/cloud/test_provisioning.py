"""deployer/cloud/ on the real Barbican: no readable window, no state with half a rotation."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from deployer.cloud.errors import CloudError
from deployer.cloud.secrets import DEMO_NAMES, Entry, generate_value

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud


def test_there_is_no_readable_window(cloud: Cloud) -> None:
    """After every single call of a creation nobody but the VPS can read it or change its ACL."""
    vps = cloud.vps("vps-window-001", {})
    other = cloud.vps("vps-window-002", {})
    accounts = cloud.accounts
    colleague = accounts.log_in(accounts.user("colleague", "recruitiq", ("creator", "member")))
    ungranted = accounts.log_in_with(cloud.runtime[other.vps_id].credential)
    full = f"{vps.vps_id}/JWT_SECRET"
    seen = 0
    for _ in cloud.deployment.creation_steps(vps, full, b"canary"):
        listed = cloud.deployment._call("GET", f"/secrets?name={full}", "list")["secrets"]
        for secret in listed:
            seen += 1
            for session in (colleague, ungranted):
                response = session.get(f"{secret['secret_ref']}/payload", raise_exc=False, log=False)
                assert response.status_code in {403, 404}
            acl = {"read": {"users": ["me"], "project-access": True}}
            changed = colleague.put(f"{secret['secret_ref']}/acl", json=acl, raise_exc=False, log=False)
            assert changed.status_code == 403
    assert seen == 3


def test_every_state_of_a_rotation_has_a_name_twice(cloud: Cloud) -> None:
    """From the first new entry to the last old one, so that a reader knows that it is under way."""
    vps = cloud.vps("vps-order-001", {"A": b"a1", "B": b"b1", "C": b"c1"})
    before = {entry.secret_ref for entry in cloud.deployment.entries(vps)}
    whole = 0
    for _ in cloud.deployment.rotation_steps(vps, {"A": b"a2", "B": b"b2"}):
        entries = cloud.deployment.entries(vps)
        counts = Counter(entry.name for entry in entries)
        versions = {entry.secret_ref for entry in entries}
        if max(counts.values()) == 1:
            whole += 1
            assert len(versions & before) in {3, 1}  # none rotated yet, or both
    assert whole > 1
    entries = cloud.deployment.entries(vps)
    assert sorted(entry.name for entry in entries) == [f"{vps.vps_id}/{name}" for name in "ABC"]
    assert len({entry.secret_ref for entry in entries} & before) == 1


def test_an_unfinished_rotation_is_finished_by_the_next(cloud: Cloud) -> None:
    """Stopped after the new entry was added: repeated, one version of the name is left."""
    vps = cloud.vps("vps-again-001", {"A": b"a1"})
    for step in cloud.deployment.rotation_steps(vps, {"A": b"a2"}):
        if step.startswith("added"):
            break
    assert len(cloud.deployment.entries(vps)) == 2
    cloud.deployment.rotate(vps, {"A": b"a3"})
    assert len(cloud.deployment.entries(vps)) == 1


def test_a_rollback_lists_the_former_versions_again(cloud: Cloud) -> None:
    """Under another entry name, which Barbican takes; what rotates after it has a higher K."""
    vps = cloud.vps("vps-back-001", {"A": b"a1", "B": b"b1"})
    first = {entry.name: entry.secret_ref for entry in cloud.deployment.entries(vps)}
    cloud.deployment.rotate(vps, {"A": b"a2"}, keeps=True)
    former = Entry(f"{vps.vps_id}/A", first[f"{vps.vps_id}/A"])
    with pytest.raises(CloudError, match="HTTP 500"):
        cloud.deployment._entry("POST", vps, former, "add the entry that was removed")
    ks = [0]
    for _ in range(3):
        cloud.deployment.roll_back(vps, {"A": former.secret_ref})
        (back,) = (entry for entry in cloud.deployment.entries(vps) if entry.name.startswith(former.name))
        assert back.secret_ref == former.secret_ref
        ks.append(int(back.name.removeprefix(f"{former.name}~")))
        cloud.deployment.rotate(vps, {"A": b"a3"}, keeps=True)
        (next_one,) = (entry for entry in cloud.deployment.entries(vps) if entry.name.startswith(former.name))
        ks.append(int(next_one.name.removeprefix(f"{former.name}~")))
    assert ks == sorted(set(ks))
    cloud.deployment.remove(vps, ["A", "B"])
    assert cloud.deployment.entries(vps) == []


def test_operations_can_be_repeated(cloud: Cloud) -> None:
    """create_vps finds its container; deletions of what is gone succeed."""
    vps = cloud.vps("vps-repeat-001", {"A": b"a"})
    assert cloud.deployment.create_vps(vps.vps_id, vps.user_id) == vps
    entry = cloud.deployment.entries(vps)[0]
    cloud.deployment.remove(vps, ["A"])
    cloud.deployment.remove(vps, ["A"])
    cloud.deployment.delete(entry)
    assert cloud.deployment.entries(vps) == []
    cloud.deployment.delete_vps(vps)


@pytest.mark.parametrize("value", [b" \n a \n", bytes(range(256)), b"-----BEGIN X-----\nAA==\n"])
def test_every_byte_is_kept(cloud: Cloud, value: bytes) -> None:
    """White space and bytes that are no text too."""
    vps = cloud.vps("vps-bytes-001", {"A": value})
    session = cloud.accounts.log_in_with(cloud.runtime[vps.vps_id].credential)
    ref = cloud.deployment.entries(vps)[0].secret_ref
    headers = {"Accept": "application/octet-stream"}
    assert (session.get(f"{ref}/payload", headers=headers, log=False).content == value) is True


def test_no_value_and_no_password_is_logged(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    """With every logger at DEBUG, also when a call is refused."""
    canary = secrets.token_hex(16)
    with caplog.at_level(logging.DEBUG):
        vps = cloud.vps("vps-log-001", {"A": canary.encode()})
        cloud.deployment.rotate(vps, {"A": canary.encode()})
        missing = Entry("vps-log-001/B", cloud.deployment.entries(vps)[0].secret_ref[:-4] + "0000")
        with pytest.raises(CloudError, match="HTTP 4") as caught:
            cloud.deployment._entry("POST", vps, missing, "add the new entry")
    account = cloud.runtime[vps.vps_id]
    shown = caplog.text + repr(account) + repr(account.user) + repr(caught.value)
    for hidden in (canary, account.credential.secret, account.user.password):
        assert (hidden in shown) is False


def test_generated_values_are_different_and_of_their_kind() -> None:
    """Random, and a URL where the name says so."""
    values = {generate_value(name) for name in DEMO_NAMES for _ in range(3)}
    assert len(values) == 21
    assert generate_value("DATABASE_URL").startswith(b"postgresql://")
