"""The key of sealed values is a credential of fetch alone, where this VPS has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common import sealing, sealing_key
from common.names import SecretName
from common.sealed import Header
from tests.system.installed import VALUES

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud
    from tests.system.installed import Installed

CREDENTIAL = "/etc/vps-secrets-agent/sealing-key.cred"


def test_a_key_is_optional_and_opens_what_is_sealed(bare: Installed, cloud: Cloud) -> None:
    """Without it every unit starts as before; a replaced one is read in the next cycle; serve has none."""
    bare.cloud, bare.vps = cloud, cloud.vps(bare.name, VALUES)
    bare.setup()
    assert bare.reads("JWT_SECRET", VALUES["JWT_SECRET"])
    (former, former_public), (key, public) = sealing.new_key(), sealing.new_key()
    name = SecretName("JWT_SECRET")
    value = sealing.seal(b"sealed", public, Header(bare.vps.vps_id, name, 1))
    cloud.deployment.rotate(bare.vps, {"JWT_SECRET": value}, keeps=True)
    for private, reason in ((None, "this VPS has no key"), (former, "another key")):
        if private is not None:
            bare.run(
                f"systemd-creds encrypt --name={sealing_key.CREDENTIAL} - {CREDENTIAL}",
                given=sealing_key.encoded(private),
            )
        bare.refresh()
        assert any(reason in warning for warning in bare.status()["warnings"])
        assert bare.reads("JWT_SECRET", VALUES["JWT_SECRET"])
    both = f"{sealing_key.encoded(former)}\n{sealing_key.encoded(key)}\n"
    draft = f"{CREDENTIAL}.new"
    command = f"systemd-creds encrypt --name={sealing_key.CREDENTIAL} - {draft} && mv {draft} {CREDENTIAL}"
    bare.run(command, given=both)
    bare.refresh()
    bare.until(lambda: bare.reads("JWT_SECRET", b"sealed"))
    former_value = sealing.seal(b"newer", former_public, Header(bare.vps.vps_id, name, 2))
    cloud.deployment.rotate(bare.vps, {"JWT_SECRET": former_value}, keeps=True)
    bare.refresh()
    bare.until(lambda: bare.reads("JWT_SECRET", b"newer"))
    pid = bare.pid()
    assert (
        "sealing-key"
        not in bare.run(f"ls /run/credentials/vps-secrets-agent.service 2>&1; ls /proc/{pid}/fd").out
    )
