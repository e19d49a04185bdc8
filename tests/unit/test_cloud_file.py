"""deployer/cloud/: cloud_file.py is read strictly, cloud_plan.py is pure, export.py holds nothing secret."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import ConfigurationError
from deployer.cloud.cloud_file import CloudFile, load
from deployer.cloud.cloud_plan import Granted, Make, Plan, Present, plan
from deployer.cloud.export import terraform

EXAMPLE = Path(__file__).parents[2] / "packaging/cloud.toml"
SERVICE, ACCOUNTS = "recruitiq-deployment-service", "recruitiq-vps-accounts"


def read(tmp_path: Path, text: str) -> CloudFile:
    """Read a file of this text."""
    path = tmp_path / "cloud.toml"
    path.write_text(text)
    return load(path)


def whole() -> Present:
    """Return a cloud that is as the defaults want it."""
    return Present(
        domains=frozenset({"Default", "recruitiq-vps"}),
        roles=frozenset({"creator", "member", "manager", "reader"}),
        projects=frozenset({("recruitiq-secrets", "Default"), ("vps-runtime", "recruitiq-vps")}),
        users=frozenset({(SERVICE, "Default"), (ACCOUNTS, "Default")}),
        granted=frozenset(
            {
                Granted("creator", SERVICE, "Default", "recruitiq-secrets", "Default"),
                Granted("member", SERVICE, "Default", "recruitiq-secrets", "Default"),
                Granted("manager", ACCOUNTS, "Default", "", "recruitiq-vps"),
            }
        ),
    )


def test_the_example_shows_the_defaults(tmp_path: Path) -> None:
    """And all that is commented out is right, less what excludes each other."""
    assert load(EXAMPLE) == read(tmp_path, "")
    text = re.sub(r"(?m)^# (?!pool)(\w+ = )", r"\1", EXAMPLE.read_text())
    shown = read(tmp_path, text)
    assert shown.beacon_container == "vps-beacons"
    assert shown.backup is not None
    assert shown.vps == load(EXAMPLE).vps


def test_the_document_has_every_key_and_every_finding() -> None:
    """As the example and the program have them."""
    text = (EXAMPLE.parents[1] / "docs/deployment.md").read_text().partition("### cloud.toml")[2]
    rows = dict(re.findall(r"(?m)^\| `\[(\w+)\]` \| ([^|]+) \|", text))
    tables = re.split(r"(?m)^\[(\w+)\]", EXAMPLE.read_text())[1:]
    shown = {
        name: set(re.findall(r"(?m)^# (\w+) = ", body))
        for name, body in zip(tables[::2], tables[1::2], strict=True)
    }
    assert {name: set(re.findall(r"`(\w+)`", keys)) for name, keys in rows.items()} == shown
    kinds = set()
    for path in (EXAMPLE.parents[1] / "deployer/cloud/verify").glob("*.py"):
        kinds |= set(re.findall(r'Finding\(\s*"([a-z-]+)"', path.read_text()))
    assert len(kinds) > 7
    assert kinds == {kind for kind in re.findall(r"`([a-z-]+)`", text) if kind in kinds}


def test_what_agents_are_configured_for_needs_its_rules(tmp_path: Path) -> None:
    """Each once, and those of both where both are wanted."""
    both = set(read(tmp_path, "[vps]\nlist_metadata = true\nacknowledge = true\n").vps.rules)
    lists = set(read(tmp_path, "[vps]\nlist_metadata = true\n").vps.rules)
    says = set(read(tmp_path, "[vps]\nacknowledge = true\n").vps.rules)
    assert both == lists | says
    assert lists & says == set(read(tmp_path, "").vps.rules)


def test_every_mistake_is_told(tmp_path: Path) -> None:
    """With its key, and what would follow from it."""
    with pytest.raises(ConfigurationError) as caught:
        read(
            tmp_path,
            """
[domain]
name = "d"
[secrets]
project = "vps-runtime"
domain = "d"
[deployment_service]
roles = ["admin"]
[registrar]
domain = "d"
pool = true
[backup]
project = "vps-runtime"
[vps]
lists = true
password = "CANARY"
""",
        )
    found = {mistake.key for mistake in caught.value.mistakes}
    assert found == {
        "secrets.project",
        "secrets.domain",
        "deployment_service.roles",
        "registrar.domain",
        "registrar.pool",
        "backup.project",
        "vps.lists",
        "vps.password",
    }
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("text", ["[", "a = 1\na = 2\n"])
def test_a_file_that_is_no_toml(tmp_path: Path, text: str) -> None:
    """It is not quoted."""
    with pytest.raises(ConfigurationError, match="is not TOML in UTF-8"):
        read(tmp_path, text)
    with pytest.raises(ConfigurationError, match="can't be read"):
        load(tmp_path / "none.toml")


def test_an_empty_cloud_needs_everything_in_an_order_that_works() -> None:
    """Domains, then what is in them, then roles."""
    changes = plan(load(EXAMPLE), Present()).changes
    kinds = [change.make for change in changes]
    assert kinds == sorted(kinds, key=list(Make).index)
    assert {str(change) for change in changes} >= {
        "make the domain recruitiq-vps",
        "make the project vps-runtime in the domain recruitiq-vps",
        f"give {ACCOUNTS} (Default) the role manager in the domain (recruitiq-vps)",
        f"give {SERVICE} (Default) the role creator in the project recruitiq-secrets (Default)",
    }
    assert len(changes) == len(set(changes))


def test_a_whole_cloud_needs_nothing() -> None:
    """A VPS's own role is nothing too much."""
    vps = Granted("reader", "vps-1", "recruitiq-vps", "vps-runtime", "recruitiq-vps")
    present = replace(whole(), granted=whole().granted | {vps})
    assert plan(load(EXAMPLE), present).changes == ()
    assert plan(load(EXAMPLE), present).excess == ()


def test_containers_are_made_last_and_their_owner_is_a_person(tmp_path: Path) -> None:
    """The one who puts has a project of his own; a person in that of the backups is none too many, he is."""
    wanted = read(tmp_path, '[beacon]\ncontainer = "b"\n[backup]\nproject = "kept"\n')
    changes = plan(wanted, Present()).changes
    assert [str(change) for change in changes[-2:]] == [
        "make the container b in the project recruitiq-secrets (Default): users of vps-runtime may read",
        (
            "make the container vps-secrets-backups in the project kept (Default): former versions stay, "
            "recruitiq-backup-writer may put, nothing else"
        ),
    ]
    given = "give recruitiq-backup-writer (Default) the role reader in the project recruitiq-backup-writer"
    assert [change for change in map(str, changes) if change.startswith(given)] != []
    writer = Granted("reader", "recruitiq-backup-writer", "Default", "recruitiq-backup-writer", "Default")
    owner = Granted("member", "olga", "Default", "kept", "Default")
    itself = Granted("reader", "recruitiq-backup-writer", "Default", "kept", "Default")
    done = replace(
        whole(),
        projects=frozenset((place.name, place.domain) for place in wanted.places),
        users=frozenset((account.user, account.domain) for account in wanted.accounts),
        granted=whole().granted | {writer, owner},
        containers=frozenset(wanted.containers),
    )
    assert plan(wanted, done) == Plan((), ())
    (excess,) = plan(wanted, replace(done, granted=done.granted | {itself})).excess
    assert excess.startswith("recruitiq-backup-writer (Default) has the role reader in the project kept")
    assert plan(wanted, replace(done, open_to_others=frozenset({"x"}))).excess == ("x",)
    with pytest.raises(ConfigurationError, match="must be one of its own"):
        read(tmp_path, '[backup]\nproject = "kept"\nuser_project = "kept"\n')


@pytest.mark.parametrize(
    "granted",
    [
        Granted("admin", "anna", "Default", "recruitiq-secrets", "Default"),
        Granted("member", "vps-1", "recruitiq-vps", "vps-runtime", "recruitiq-vps"),
        Granted("reader", "anna", "Default", "vps-runtime", "recruitiq-vps"),
        Granted("admin", ACCOUNTS, "Default", "", "recruitiq-vps"),
        Granted("reader", "group 1", "", "recruitiq-secrets", "Default"),
    ],
)
def test_what_is_too_much_is_told_and_left_to_a_person(granted: Granted) -> None:
    """A role that cloud.toml does not give."""
    present = replace(whole(), granted=whole().granted | {granted})
    found = plan(load(EXAMPLE), present)
    assert found.changes == ()
    (excess,) = found.excess
    assert granted.user in excess
    assert granted.role in excess


def test_terraform_has_projects_users_and_roles_and_no_password(tmp_path: Path) -> None:
    """Every reference is to a block that is there."""
    text = terraform(read(tmp_path, '[backup]\nproject = "recruitiq-backup"\n'))
    assert "password" not in text
    declared = {
        f"{'data.' if kind == 'data' else ''}{what}.{label}"
        for kind, what, label in re.findall(r'(?m)^(resource|data) "(\w+)" "([\w-]+)"', text)
    }
    used = {name.removesuffix(".id") for name in re.findall(r"= ((?:data\.)?openstack_[\w.-]+\.id)", text)}
    assert used <= declared
    assert text.count("{") == text.count("}")
    assert text.count('"openstack_identity_role_assignment_v3"') == 4
    labels = re.findall(r'(?m)^(?:resource|data) ("\w+" "[\w-]+")', text)
    assert len(labels) == len(set(labels)), "Terraform takes an address once"
    required = {
        "openstack_identity_project_v3": {"name"},
        "openstack_identity_user_v3": {"name", "domain_id"},
        "openstack_identity_role_v3": {"name"},
        "openstack_identity_role_assignment_v3": {"user_id", "role_id"},
    }
    for what, body in re.findall(r'(?m)^(?:resource|data) "(\w+)" "[\w-]+" \{\n((?:  .*\n)*)\}', text):
        assert required[what] <= set(re.findall(r"(?m)^  (\w+) = ", body)), what
