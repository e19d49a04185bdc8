"""The deployer's manual, completion, units and package: every command, option and library is there."""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deployer.cli.__main__ import _parser
from deployer.config.doors import SOCKET
from deployer.config.reader import DATABASE, DEFAULT_PATH, POOL_STATE, RUN, SIGNING_KEY
from tests.unit.test_manual import MAN, ROOT, _page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _commands(parser: argparse.ArgumentParser, *words: str) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Yield each command with its verb, and its long options."""
    verbs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in verbs:
        for word, below in action.choices.items():
            yield from _commands(below, *words, word)
    if not verbs:
        yield words, {name for action in parser._actions for name in action.option_strings if name[1] == "-"}


COMMANDS = dict(_commands(_parser()))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_page_has_every_command_and_its_options(words: tuple[str, ...]) -> None:
    """By its name, and each option somewhere."""
    page = _page("vps-secrets-deploy.8")
    assert re.search(rf"\b{' '.join(words)}\b", page)
    assert [option for option in COMMANDS[words] - {"--help"} if option not in page] == []


OPTIONAL = {"psycopg2"}


@pytest.fixture
def completed(tmp_path: Path) -> Callable[..., set[str]]:
    """What bash offers for the last of some words, with the command as it is in this tree."""
    program = tmp_path / "vps-secrets-deploy"
    program.write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m deployer.cli "$@"\n')
    program.chmod(0o755)

    def offered(*words: str) -> set[str]:
        line = " ".join(f"'{word}'" for word in ("vps-secrets-deploy", *words))
        script = (
            f"source {ROOT}/packaging/completions/vps-secrets-deploy; COMP_WORDS=({line}); "
            f'COMP_CWORD={len(words)}; _vps_secrets_deploy; printf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        done = subprocess.run(
            ["bash", "-c", script],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "COLUMNS": "80"},
            capture_output=True,
            text=True,
            check=True,
        )
        return set(done.stdout.split())

    return offered


@pytest.mark.slow  # a dozen starts of the command
def test_bash_offers_what_there_is(completed: Callable[..., set[str]]) -> None:
    """Commands, verbs, and the options of a command, which a word before it does not confuse."""
    first = {words[0] for words in COMMANDS} - {"compromised"}  # another name for one
    assert completed("") == first
    assert completed("rot") == {"rotate", "rotate-many"}
    assert completed("vps", "") == {words[1] for words in COMMANDS if words[0] == "vps"}
    assert completed("rotate", "--reason", "vps", "--") == COMMANDS[("rotate",)]


def test_the_configuration_s_page_is_made_of_the_example() -> None:
    """scripts/deb puts it there: nothing to keep in step by hand."""
    assert "\n@EXAMPLE@\n" in (MAN / "vps-secrets-deployer.toml.5").read_text()
    assert "@EXAMPLE@" in (ROOT / "scripts/deb").read_text()


def test_the_units_are_where_the_configuration_says() -> None:
    """Sockets, state, credentials and users: the defaults, and what the shipped file says."""
    units = "\n".join(path.read_text() for path in sorted((ROOT / "systemd").glob("vps-secrets-[dr]e[pg]*")))
    listened = set(re.findall(r"^ListenStream=(\S+)", units, re.MULTILINE))
    assert {str(SOCKET), *(f"{RUN}/{name}.sock" for name in ("worker", "registrar"))} <= listened
    assert set(re.findall(r"^ConditionPathExists=(\S+)", units, re.MULTILINE)) == {str(DEFAULT_PATH)}
    state = str(Path(DATABASE.removeprefix("sqlite:///")).parent)
    assert f"ReadWritePaths={state}\n" in units
    assert f"StateDirectory={POOL_STATE.parent.name}\n" in units
    example = (ROOT / "packaging/deployer.toml").read_text()
    loaded = re.findall(r"^LoadCredentialEncrypted=([\w-]+):", units, re.MULTILINE)
    assert len(set(loaded)) == 3
    assert f" {SIGNING_KEY.parent}\n" in units
    assert [name for name in loaded if f'"{name}"' not in example] == []
    users = re.findall(
        r"^u (\S+)", (ROOT / "packaging/debian/vps-secrets-deployer.sysusers").read_text(), re.MULTILINE
    )
    assert set(re.findall(r"^User=(\S+)", units, re.MULTILINE)) == set(users)
    for line in ("api_user", "worker_user"):
        named = re.search(rf'{line} = "(\S+)"', example)
        assert named is not None
        assert named[1] in users


def test_what_the_package_depends_on_is_what_is_imported() -> None:
    """Each library outside the standard one has its Debian package; Recommends has what some sites use."""
    imported = set()
    for path in (ROOT / "deployer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
    libraries = imported - set(sys.stdlib_module_names) - {"deployer", "common"}
    control = (ROOT / "packaging/debian/control").read_text().partition("Package: vps-secrets-deployer")[2]
    depends = set(re.findall(r"python3-([\w-]+)", control.partition("Recommends:")[0]))
    names = {library.replace("_", "-") for library in libraries} - OPTIONAL
    assert set(re.findall(r"python3-([\w-]+)", control.partition("Recommends:")[2])) >= OPTIONAL
    assert not OPTIONAL & depends
    assert names <= depends, names - depends
    floors = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for floor in (*floors["deployer"], *floors["postgresql"]):
        name, _, version = floor.lower().partition(">=")
        said = re.search(rf"python3-{name} \(>= ([\d.]+)\)", control)
        assert said is not None, name
        assert version.startswith(said[1]), name
