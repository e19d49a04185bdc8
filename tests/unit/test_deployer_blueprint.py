"""deployer/core/blueprint.py: every mistake at once, with file and key, never a value; and what is right."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigurationError
from common.names import SecretName
from deployer.config.blueprints import check_targets, load, load_all
from deployer.config.reader import load as load_config
from deployer.config.zones import zone
from deployer.core import blueprint
from deployer.core.options import (
    CLASSES,
    READERS,
    SYMBOLS,
    CommandOptions,
    ExternalOptions,
    KeypairOptions,
    PasswordOptions,
    PostgresqlOptions,
    RandomOptions,
)

if TYPE_CHECKING:
    from deployer.core.blueprint import Blueprint, SecretSpec

FILE: Final = Path("/etc/blueprints/backend.toml")
TEMPLATE: Final = "postgresql://{role}:{password}@{host}:{port}/{database}?sslmode=verify-full"
DESIGN: Final = f"""
[JWT_SECRET]
kind = "random"
bytes = 48
encoding = "base64url"
rotate = "30d"
window = "02:00-05:00 Europe/Amsterdam"
group = "session"
keep_previous = "1h"
[SESSION_SECRET]
kind = "random"
rotate = "30d"
window = "02:00-05:00 Europe/Amsterdam"
group = "session"
[DATABASE_URL]
kind = "postgresql"
server = "db1"
roles = ["app_a", "app_b"]
template = "{TEMPLATE}"
rotate = "30d"
[ENCRYPTION_KEY]
kind = "random"
rotate = "never"
[SIGNING_KEY]
kind = "keypair"
algorithm = "rsa-3072"
format = "jwk"
rotate = "90d"
[ADMIN_PASSWORD]
kind = "password"
length = 20
classes = ["lower", "digit"]
symbols = "-_"
rotate = "90d"
rollback_for = "2h"
[SMTP_PASSWORD]
kind = "external"
rotate = "180d"
[WEBHOOK_SECRET]
kind = "hook"
hook = "/usr/local/lib/recruitiq/webhook"
rotate = "90d"
[S3_KEY]
kind = "command"
command = "/usr/local/lib/recruitiq/s3"
creates = true
slots = ["key-a", "key-b"]
rotate = "90d"
"""
ONE: Final = '[A]\nkind = "random"\nrotate = "30d"\n'
DATABASE: Final = f'kind = "postgresql"\nserver = "db1"\ntemplate = "{TEMPLATE}"\nrotate = "30d"\n'
CANARY: Final = "canary-0d6f7e"


def _parse(text: str, file: Path = FILE) -> Blueprint:
    return blueprint.parse(text.encode(), file, zone)


def _spec(text: str) -> SecretSpec:
    (spec,) = _parse(text).secrets.values()
    return spec


def _mistakes(text: str | bytes, file: Path = FILE) -> dict[str, str]:
    """Return key → what is expected there; each is told once."""
    with pytest.raises(ConfigurationError) as caught:
        blueprint.parse(text.encode() if isinstance(text, str) else text, file, zone)
    found = {mistake.key: mistake.expected for mistake in caught.value.mistakes}
    assert len(found) == len(caught.value.mistakes)
    assert {mistake.file for mistake in caught.value.mistakes} == {str(file)}
    assert caught.value.__context__ is None or CANARY not in repr(caught.value.__context__)
    return found


def test_the_blueprint_of_the_design() -> None:
    """Each kind with its keys, defaults where it has none."""
    read = _parse(DESIGN)
    assert read.name == "backend"
    assert {name: spec.options for name, spec in read.secrets.items()} == {
        "JWT_SECRET": RandomOptions(48, "base64url"),
        "SESSION_SECRET": RandomOptions(32, "base64url"),
        "DATABASE_URL": PostgresqlOptions("db1", ("app_a", "app_b"), TEMPLATE),
        "ENCRYPTION_KEY": RandomOptions(),
        "SIGNING_KEY": KeypairOptions("rsa-3072", "jwk"),
        "ADMIN_PASSWORD": PasswordOptions(20, (CLASSES["lower"], CLASSES["digit"], "-_")),
        "SMTP_PASSWORD": ExternalOptions(),
        "WEBHOOK_SECRET": CommandOptions(PurePosixPath("/usr/local/lib/recruitiq/webhook"), RandomOptions()),
        "S3_KEY": CommandOptions(PurePosixPath("/usr/local/lib/recruitiq/s3"), None, ("key-a", "key-b")),
    }
    jwt, password = read.secrets[SecretName("JWT_SECRET")], read.secrets[SecretName("ADMIN_PASSWORD")]
    assert (jwt.rotate_s, jwt.group, jwt.keep_previous_s, jwt.rollback_for_s) == (
        2592000,
        "session",
        3600,
        86400,
    )
    assert (password.group, password.rollback_for_s) == ("ADMIN_PASSWORD", 7200)
    assert read.secrets[SecretName("ENCRYPTION_KEY")].rotate_s is None
    assert {group: [spec.name for spec in specs] for group, specs in read.groups().items()}["session"] == [
        "JWT_SECRET",
        "SESSION_SECRET",
    ]


def test_a_hook_is_a_command() -> None:
    """Two names of one kind, so that neither word is a mistake."""
    written = '[A]\nkind = "{0}"\n{1} = "/usr/lib/x"\nrotate = "90d"\n'
    specs = {_spec(written.format(kind, key)) for kind in ("hook", "command") for key in ("hook", "command")}
    assert len(specs) == 1
    assert specs.pop().kind == "command"


def test_a_wish_is_not_made_where_only_a_person_has_it_or_old_data_need_it() -> None:
    """But what never rotates is made the first time."""
    specs = _parse(DESIGN).secrets
    made = {name: spec.wish(ever_made=False).may_make for name, spec in specs.items()}
    again = {name: spec.wish(ever_made=True).may_make for name, spec in specs.items()}
    assert [name for name, may in made.items() if not may] == ["SMTP_PASSWORD"]
    assert [name for name, may in again.items() if not may] == ["ENCRYPTION_KEY", "SMTP_PASSWORD"]
    wish = specs[SecretName("DATABASE_URL")].wish(ever_made=True)
    assert (wish.kind, wish.group, wish.slots) == ("postgresql", "DATABASE_URL", ("app_a", "app_b"))
    assert specs[SecretName("S3_KEY")].wish(ever_made=True).slots == ("key-a", "key-b")


def test_two_accounts_in_turn_keep_the_former_for_half_of_the_interval_at_most() -> None:
    """Then the former one gets another password: what is kept longer would be of no use."""
    text = f'[A]\n{DATABASE}roles = ["a", "b"]\n'.replace("30d", "10h")
    assert _spec(text).rollback_for_s == 5 * 3600
    assert _mistakes(text + 'rollback_for = "6h"\n').keys() == {"A.rollback_for"}
    assert _spec(ONE.replace("30d", "10h") + 'rollback_for = "6h"\n').rollback_for_s == 6 * 3600


@pytest.mark.parametrize(
    ("text", "key", "told"),
    [
        ("", "(file)", "no secret"),
        ("x", "(file)", "is not TOML, end of document"),
        (b"\xff", "(file)", "is not UTF-8"),
        ("A = " + "[" * 5000, "(file)", "nested too deep"),
        ("A = 1", "A", "must be a table"),
        ("[[A]]\nkind = 1", "A", "must be a table"),
        (f'["b/d"]\nkind = "{CANARY}"', "b/d", "letters, digits"),
        ('["A~2"]\nkind = "random"', "A~2", "letters, digits"),
        ('["a\\nb"]\nkind = "random"', "'a\\nb'", "letters, digits"),
        (f'["{"A" * 175}"]\nkind = "random"', "A" * 175, "174"),
        ('[A]\nrotate = "30d"', "A.kind", "is missing"),
        (f'[A]\nkind = "{CANARY}"\nrotate = "30d"', "A.kind", "random, password"),
        ('[A]\nkind = "barbican"\nrotate = "30d"', "A.kind", "must be one of"),
        ('[A]\nkind = "random"', "A.rotate", "is missing"),
        (ONE.replace("30d", "30"), "A.rotate", '"never"'),
        (ONE.replace("30d", "4s"), "A.rotate", "from 5s"),
        (ONE.replace("30d", "367d"), "A.rotate", "366d"),
        (ONE.replace('"30d"', "30"), "A.rotate", "duration"),
        (ONE + "byte = 3", "A.byte", "did you mean bytes"),
        (ONE + f'secret = "{CANARY}"', "A.secret", "don't belong"),
        (ONE + "bytes = 15", "A.bytes", "16 to 4096"),
        (ONE + 'encoding = "base32"', "A.encoding", "base64url"),
        (ONE + 'server = "db1"', "A.server", "not a key"),
        (ONE + 'window = "02:00-05:00 Mars/Base"', "A.window", "Europe/Amsterdam"),
        (ONE.replace("30d", "6d") + 'window = "02:00-05:00 UTC"', "A.window", "7d or more"),
        (ONE.replace("30d", "never") + 'window = "02:00-05:00 UTC"', "A.window", "no effect"),
        ('[A]\nkind="external"\nrotate="30d"\nwindow="02:00-05:00 UTC"', "A.window", "no effect"),
        (ONE + 'group = "a b"', "A.group", "must be a name"),
        (ONE + 'keep_previous = "25h"', "A.keep_previous", "1d"),
        (ONE.replace("30d", "1h") + 'keep_previous = "31m"', "A.keep_previous", "half of rotate"),
        (ONE + 'rollback_for = "91d"', "A.rollback_for", "90d"),
        ('[A]\nkind="password"\nrotate="30d"\nlength=11', "A.length", "12 to 1024"),
        ('[A]\nkind="password"\nrotate="30d"\nclasses=["digit"]\nlength=24', "A.length", "80 are needed"),
        ('[A]\nkind="password"\nrotate="30d"\nclasses=["letter"]', "A.classes", "lower, upper, digit"),
        ('[A]\nkind="password"\nrotate="30d"\nclasses=["lower","lower"]', "A.classes", "twice"),
        ('[A]\nkind="password"\nrotate="30d"\nsymbols="--"', "A.symbols", "each once"),
        ('[A]\nkind="password"\nrotate="30d"\nsymbols="a"', "A.symbols", "one or more of"),
        ('[A]\nkind="keypair"\nrotate="30d"\nalgorithm="rsa-1024"', "A.algorithm", "rsa-3072"),
        ('[A]\nkind="keypair"\nrotate="30d"\nformat="der"', "A.format", "jwk"),
        (f"[A]\n{DATABASE}", "A.roles", "is missing"),
        (f'[A]\n{DATABASE}roles = ["a"]', "A.roles", "two roles"),
        (f'[A]\n{DATABASE}roles = ["a", "b", "c"]', "A.roles", "two roles"),
        (f'[A]\n{DATABASE}roles = ["a", "a"]', "A.roles", "different"),
        (f'[A]\n{DATABASE}roles = ["a", "b; c"]', "A.roles", "two roles"),
        (f'[A]\n{DATABASE}roles = ["a", "pg_read_all_data"]', "A.roles", "two roles"),
        (f'[A]\n{DATABASE}roles = ["a", "{"b" * 64}"]', "A.roles", "two roles"),
        (f'[A]\n{DATABASE}roles = ["a", "b"]\ndatabase = "x y"', "A.database", "database"),
        (f'[A]\n{DATABASE}roles = ["a", "b"]'.replace("{role}", "{rolle}"), "A.template", "{role}"),
        (f'[A]\n{DATABASE}roles = ["a", "b"]'.replace(":{password}", ""), "A.template", "{password}"),
        (f'[A]\n{DATABASE}roles = ["a", "b"]'.replace("{port}", "{port!r}"), "A.template", "{port}"),
        (f'[A]\n{DATABASE}roles = ["a", "b"]'.replace("{port}", "{port"), "A.template", "{port}"),
        (f'[A]\n{DATABASE}roles = ["a", "b"]'.replace('"db1"', '"a b"'), "A.server", "deployer.toml"),
        ('[A]\nkind = "external"\nrotate = "30d"\nbytes = 32', "A.bytes", "not a key"),
        ('[A]\nkind = "command"\nrotate = "30d"', "A.command", "is missing"),
        ('[A]\nkind = "command"\nrotate = "30d"\ncommand = "x"', "A.command", "absolute"),
        ('[A]\nkind="hook"\nrotate="30d"\ncommand="/x"\nhook="/x"', "A.hook", "write one"),
        ('[A]\nkind="hook"\nrotate="30d"\nhook="/x"\ncreates=true\nbytes=32', "A.bytes", "no effect"),
        ('[A]\nkind="hook"\nrotate="30d"\nhook="/x"\nslots=["a"]', "A.slots", "two different"),
        ('[A]\nkind="hook"\nrotate="30d"\nhook="/x"\nslots=["a","a"]', "A.slots", "two different"),
        (ONE + ONE.replace("[A]", '[B]\ngroup = "A"').replace("30d", "31d"), "B.rotate", "as in A"),
        (ONE + ONE.replace("[A]", '[B]\ngroup = "A"\nwindow = "01:00-02:00 UTC"'), "B.window", "as in A"),
        (ONE + '[B]\nkind = "external"\nrotate = "30d"\ngroup = "A"', "B.group", "only one of the two"),
        (ONE + 'group = "x"\n' + ONE.replace("[A]", '[B]\ngroup = "A"'), "B.group", "write it at A too"),
        (f'[A]\n{DATABASE}roles = ["a", "b"]\n[B]\n{DATABASE}roles = ["b", "c"]', "B.roles", "a role of A"),
    ],
)
def test_a_mistake_is_told_with_its_key_and_what_is_right(text: str | bytes, key: str, told: str) -> None:
    """Never with the value that is written there."""
    found = _mistakes(text)
    assert list(found) == [key]
    assert told in found[key]
    assert CANARY not in str(found)


def test_all_mistakes_are_told_at_once() -> None:
    """Of all tables, among them those between two; what only follows from another mistake is left out."""
    text = (
        '[A]\nkind = "random"\nrotate = "x"\nbyte = 3\n'
        '[B]\nkind = "random"\nrotate = "9d"\ngroup = "A"\n'
        '[C]\nkind = "nothing"\n'
        f'[D]\n{DATABASE}roles = ["a", "b"]\ngroup = "g"\n'
        f'[E]\n{DATABASE.replace("30d", "40d")}roles = ["b", "c"]\ngroup = "g"\n'
    )
    assert _mistakes(text, Path("b b.toml")).keys() == {
        *("(file)", "A.rotate", "A.byte", "C.kind", "E.rotate", "E.roles")
    }


def test_no_more_secrets_than_a_container_can_list_twice() -> None:
    """A rotation of all of them lists each twice, and agents refuse more than 200 entries."""
    table = '[S{}]\nkind = "random"\nrotate = "30d"\n'
    assert len(_parse("".join(map(table.format, range(100)))).secrets) == 100
    assert "can have 100" in _mistakes("".join(map(table.format, range(101))))["(file)"]


def test_roles_of_the_vps_itself_are_not_shared() -> None:
    """With {vps} in both, each VPS has its own."""
    for roles, shared in (
        ('["{vps}_a", "{vps}_b"]', False),
        ('["{vps}_a", "b"]', True),
        ('["a", "b"]', True),
    ):
        chosen = _spec(f"[A]\n{DATABASE}roles = {roles}\n").options
        assert isinstance(chosen, PostgresqlOptions)
        assert chosen.is_shared is shared


def test_the_folder_is_read_as_a_whole(tmp_path: Path) -> None:
    """Mistakes of all files come together, with those between two files."""
    (tmp_path / "notes.txt").write_text("no blueprint")
    (tmp_path / "a.toml").write_text(f'[A]\n{DATABASE}roles = ["a", "b"]\n')
    (tmp_path / "b.toml").write_text(ONE)
    assert list(load_all(tmp_path)) == ["a", "b"]
    (tmp_path / "c.toml").write_text(f'[X]\n{DATABASE}roles = ["b", "c"]\n')
    (tmp_path / "d.toml").mkdir()
    (tmp_path / "e.toml").write_text("[")
    with pytest.raises(ConfigurationError) as caught:
        load_all(tmp_path)
    told = [(Path(mistake.file).name, mistake.key) for mistake in caught.value.mistakes]
    assert told == [("d.toml", "(file)"), ("e.toml", "(file)"), ("c.toml", "X.roles")]
    assert "a.toml" in caught.value.mistakes[2].expected


def test_a_file_or_folder_that_is_not_there(tmp_path: Path) -> None:
    """Is told, not taken for an empty one: nothing is removed for want of a file."""
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "x.toml")
    with pytest.raises(ConfigurationError, match="is not there"):
        load_all(tmp_path / "blueprints")


@given(
    st.text(max_size=400) | st.sampled_from([DESIGN]).flatmap(lambda text: st.permutations(text.split("\n")))
)
def test_whatever_is_written_is_read_or_refused(text: str | list[str]) -> None:
    """With one kind of error, and no other."""
    whole = text if isinstance(text, str) else "\n".join(text)
    try:
        read = _parse(whole)
    except ConfigurationError:
        return
    assert read.secrets


VALUES: Final = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    st.lists(st.text(max_size=3), max_size=3),
    st.sampled_from(["30d", "never", "a", "raw", "{vps}", TEMPLATE, "02:00-05:00 UTC", "lower", SYMBOLS]),
)
KEYS: Final = (
    *("rotate", "window", "group", "keep_previous", "rollback_for", "bytes", "encoding", "length", "classes"),
    *("symbols", "algorithm", "format", "server", "roles", "template", "database", "command", "hook"),
    *("creates", "slots"),
)


def _written(value: object) -> str:
    """Write a value as TOML, but for what none can hold."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return str(value) if isinstance(value, int) else '"' + re.sub(r'["\\\x00-\x1f\x7f]', "", str(value)) + '"'


@given(st.sampled_from(sorted(READERS)), st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_whatever_a_key_holds_is_read_or_refused(kind: str, keys: dict[str, object]) -> None:
    """Each key of each kind, with values of every type."""
    lines = [f"{key} = {_written(value)}" for key, value in keys.items() if value is not None]
    try:
        spec = _spec(f'[A]\nkind = "{kind}"\n' + "\n".join(lines))
    except ConfigurationError as error:
        told = [mistake.key for mistake in error.mistakes if not mistake.key.startswith("A.")]
    else:
        assert spec.rotate_s is None or spec.rotate_s >= blueprint.MIN_ROTATE_S
        told = []
    assert told == []


def test_what_deployer_toml_does_not_have_is_told_before_it_is_applied(tmp_path: Path) -> None:
    """A server and an executable, with file and key; with both there is no mistake."""
    (tmp_path / "blueprints").mkdir()
    (tmp_path / "blueprints/b.toml").write_text(
        '[DB]\nkind = "postgresql"\nserver = "db1"\nroles = ["a", "b"]\n'
        'template = "{role}:{password}"\nrotate = "30d"\n'
        '[HOOK]\nkind = "command"\ncommand = "/usr/local/lib/hook"\nrotate = "30d"\n'
    )
    config = tmp_path / "deployer.toml"
    config.write_text("")
    found = load_all(tmp_path / "blueprints")
    with pytest.raises(ConfigurationError) as caught:
        check_targets(found, tmp_path / "blueprints", load_config(config))
    assert [mistake.key for mistake in caught.value.mistakes] == ["DB.server", "HOOK.command"]
    assert "has no [[postgresql]] named db1" in str(caught.value)
    config.write_text(
        '[[postgresql]]\nname = "db1"\nhost = "/run/postgresql"\ndatabase = "app"\n'
        '[[command]]\npath = "/usr/local/lib/hook"\n'
    )
    check_targets(found, tmp_path / "blueprints", load_config(config))
