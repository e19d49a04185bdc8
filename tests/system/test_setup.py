"""The ways to hand over the credential: a terminal, a descriptor, cloud-init; never an argument."""

from __future__ import annotations

import json
import shlex
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tests.system.installed import ROOT, USER, VALUES

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud
    from tests.system.installed import Installed

NO_CONTAINER = "00000000-0000-4000-8000-000000000000"
TERMINAL = Path(__file__).parent / "terminal_inside.py"


def test_at_a_terminal_it_asks_and_shows_no_secret(bare: Installed, cloud: Cloud, rootfs: Path) -> None:
    """Every fact that is missing is asked for; the credential is typed without an echo."""
    vps = cloud.vps(f"vps-terminal-{rootfs.name}", VALUES)
    account = cloud.runtime[vps.vps_id]
    answers = [
        ("id of this VPS, such as vps-prod-001: ", vps.vps_id),
        ("reference of its Barbican container: ", vps.container_ref),
        ("keystone.example.org/v3: ", cloud.auth_url),
        ("id of the application credential: ", account.credential.id),
        ("user that the application runs as: ", USER),
        ("(not shown): ", account.credential.secret),
    ]
    bare.write("/usr/local/lib/terminal.py", TERMINAL.read_text())
    shown = bare.run("python3 /usr/local/lib/terminal.py vps-secrets setup", given=json.dumps(answers)).out
    assert "first reading  2 secrets: DATABASE_URL, JWT_SECRET" in shown
    assert vps.vps_id in shown, "what is typed is shown"
    assert account.credential.secret not in shown
    assert bare.reads("JWT_SECRET", VALUES["JWT_SECRET"])


HASH = "cd /etc/vps-secrets-agent && sha256sum agent.toml keystone-credential.cred"


def test_a_credential_that_is_wrong_changes_nothing(bare: Installed, cloud: Cloud) -> None:
    """It is tried beside the running agent, which does not notice; so are a wrong id and a wrong VPS."""
    bare.cloud, bare.vps = cloud, cloud.vps(bare.name, VALUES)
    bare.setup()
    files, pid, socket = bare.run(HASH).out, bare.pid(), bare.run("stat -c %i /run/vps-secrets/app.sock").out
    for given, options in (
        ("not-the-secret", ()),
        (None, ("--application-credential-id", "0" * 32)),
        (None, ("--vps-id", "vps-prod-002")),
    ):
        done = bare.setup("--replace", *options, given=given, check=False)
        assert done.code == 1
        assert "nothing was changed" in done.err
        assert "the secret of the credential is wrong" in done.out or "nothing to serve" in done.out
        assert (bare.run(HASH).out, bare.pid()) == (files, pid)
        bare.refresh()
        assert bare.status()["state"] == "ready"
    assert bare.run("stat -c %i /run/vps-secrets/app.sock").out == socket
    assert bare.run("ls -A /etc | grep vps-secrets").out.split() == ["vps-secrets-agent"]


def test_a_renewal_keeps_what_is_not_given(bare: Installed, cloud: Cloud) -> None:
    """Id and secret are given, nothing else; hand-written settings, grants and the socket stay."""
    bare.cloud, bare.vps = cloud, cloud.vps(bare.name, VALUES)
    bare.setup()
    more = (
        '\n# mine\n[rotation]\npoll_interval = "7m" # often\n\n[[grant]]\nuser = "nobody"\nsecrets = ["A"]\n'
    )
    bare.write("/root/more", more)
    bare.run("cat /root/more >>/etc/vps-secrets-agent/agent.toml; systemctl reload vps-secrets-agent")
    before = bare.run("cat /etc/vps-secrets-agent/agent.toml").out
    socket, generation = bare.run("stat -c %i /run/vps-secrets/app.sock").out, bare.status()["generation"]
    credential = cloud.runtime[bare.vps.vps_id].credential
    done = bare.run(
        f"vps-secrets setup --replace --application-credential-id {credential.id}", given=credential.secret
    )
    assert "trial reading  2 secrets" in done.out
    assert "first reading  2 secrets" in done.out
    after = bare.run("cat /etc/vps-secrets-agent/agent.toml").out
    assert tomllib.loads(after) == tomllib.loads(before)
    assert {*before.split("\n")} == {*after.split("\n")}, "comments too; tomlkit 0.11 may move a table"
    assert bare.run("stat -c %i /run/vps-secrets/app.sock").out == socket
    assert bare.status()["generation"] == generation
    assert bare.reads("JWT_SECRET", VALUES["JWT_SECRET"])


def test_nothing_to_serve_is_no_success(bare: Installed, cloud: Cloud) -> None:
    """A VPS id that is mistyped: the container has nothing of it."""
    bare.cloud, bare.vps = cloud, cloud.vps(bare.name, VALUES)
    done = bare.setup("--vps-id", "vps-prod-002", check=False)
    assert done.code == 1
    assert "check --vps-id" in done.out
    assert "first reading  2 secrets" in bare.setup("--replace").out


def test_a_drop_in_that_resets_the_credential(bare: Installed, cloud: Cloud) -> None:
    """Images for LXC have one: setup and the status say so, and the cure that is said works."""
    bare.cloud, bare.vps = cloud, cloud.vps(bare.name, VALUES)
    reset = "/etc/systemd/system/service.d/lxc.conf"
    bare.write(reset, "[Service]\nLoadCredential=\nLoadCredentialEncrypted=\n")
    bare.run("systemctl daemon-reload")
    done = bare.setup(check=False)
    assert done.code == 1
    assert reset in done.err
    cure = "\n".join(line[2:] for line in done.err.splitlines() if line.startswith("  "))
    bare.run(cure)
    assert "first reading  2 secrets" in bare.setup().out
    bare.run("rm -r /etc/systemd/system/vps-secrets-fetch@.service.d; systemctl daemon-reload")
    told = bare.run("vps-secrets refresh", check=False)
    assert "a drop-in resets LoadCredential=" in told.out
    assert "zzzz-credential.conf" in told.out


def test_a_full_disk_is_told(bare: Installed, cloud: Cloud) -> None:
    """In one line, with the place; and no draft is left."""
    bare.cloud, bare.vps = cloud, cloud.vps(bare.name, VALUES)
    place = "/etc/vps-secrets-agent"
    bare.run(
        f"mkdir -p {place}; mount -t tmpfs -o size=4k tmpfs {place}; head -c 4096 /dev/zero >{place}/fill"
    )
    done = bare.setup(check=False)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert f"can't write: {place}/keystone-credential.cred: No space left on device" in done.err
    assert bare.run(f"ls -A {place}").out.split() == ["fill"]


def test_from_a_descriptor_for_images(bare: Installed, cloud: Cloud, rootfs: Path) -> None:
    """No terminal, no standard input, not started; the start that follows serves."""
    bare.cloud, bare.vps = cloud, cloud.vps(f"vps-fd-{rootfs.name}", VALUES)
    secret = cloud.runtime[bare.vps.vps_id].credential.secret
    bare.write("/run/handed-over", secret, 0o600)
    command = bare.setup_command("--credential-fd", "7", "--no-start")
    assert "not started" in bare.run(f"{command} 7</run/handed-over </dev/null; rm /run/handed-over").out
    assert bare.digest("JWT_SECRET") == ""
    bare.run("systemctl restart vps-secrets-app.socket vps-secrets-agent.service")
    assert bare.reads("JWT_SECRET", VALUES["JWT_SECRET"])
    refused = bare.run(f"{command} --replace </dev/null", check=False)
    assert "descriptor 7: Bad file descriptor" in refused.err


def test_the_example_for_cloud_init(bare: Installed, cloud: Cloud, rootfs: Path) -> None:
    """Its files and its commands, run as cloud-init does: written first, then one script of sh."""
    vps = cloud.vps(f"vps-cloud-init-{rootfs.name}", VALUES)
    account = cloud.runtime[vps.vps_id]
    text = (ROOT / "docs/examples/cloud-init.yaml").read_text()
    for placeholder, fact in (
        ("vps-prod-001", vps.vps_id),
        (
            "https://barbican.example.org/v1/containers/00000000-0000-4000-8000-000000000000",
            vps.container_ref,
        ),
        ("https://keystone.example.org/v3", cloud.auth_url),
        ("0" * 32, account.credential.id),
        ("SECRET_OF_THE_APPLICATION_CREDENTIAL", account.credential.secret),
    ):
        assert placeholder in text
        text = text.replace(placeholder, fact)
    given = yaml.safe_load(text)
    for file in given["write_files"]:
        bare.write(file["path"], file["content"] + "\n", int(file["permissions"], 8))
    lines = [line if isinstance(line, str) else shlex.join(line) for line in given["runcmd"]]
    done = bare.run("sh -e", given="\n".join(lines))
    assert "first reading  2 secrets" in done.out
    assert bare.reads("JWT_SECRET", VALUES["JWT_SECRET"])
    secret = account.credential.secret
    left = bare.run(f"grep --recursive --files-with-matches '{secret}' /etc /run /var /root", check=False)
    assert left.out == ""


def test_another_application_is_added_beside_the_first(bare: Installed, cloud: Cloud) -> None:
    """Two users, each with its own secrets: neither reads the other's, and the first one notices nothing."""
    bare.cloud, bare.vps = cloud, cloud.vps(bare.name, VALUES)
    bare.run("useradd billing; useradd stranger")
    bare.setup("--secrets", "JWT_SECRET")
    before = bare.pid(), bare.run("stat -c %i:%G /run/vps-secrets/app.sock").out
    done = bare.run("vps-secrets setup --add --user billing --secrets DATABASE_URL")
    assert "user billing gets it besides" in done.out
    assert "note" not in done.out, "they have nothing in common"
    assert (bare.pid(), bare.run("stat -c %i:%G /run/vps-secrets/app.sock").out) == before

    def read_by(user: str) -> set[str]:
        return {name for name in VALUES if bare.digest(name, user)}

    for _ in range(2):
        assert (read_by(USER), read_by("billing"), read_by("stranger")) == (
            {"JWT_SECRET"},
            {"DATABASE_URL"},
            set(),
        )
        # systemd makes it anew, with the entry
        bare.run("systemctl restart vps-secrets-app.socket vps-secrets-agent.service; vps-secrets wait")
    for user, name, allowed in (
        (USER, "JWT_SECRET", True),
        ("billing", "DATABASE_URL", True),
        ("billing", "JWT_SECRET", False),
        ("stranger", "JWT_SECRET", False),
    ):
        shown = bare.run(f"vps-secrets explain {name} --user {user} --json", check=False).out
        assert json.loads(shown)["allowed"] is allowed, shown
    twice = bare.run("vps-secrets setup --add --user billing --secrets JWT_SECRET", check=False)
    assert twice.code == 1
    assert "has a grant already" in twice.err
