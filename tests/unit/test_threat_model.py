"""SECURITY.md as it is tested: each line that says *can't* names a test, which exists and is collected."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ABSENT: Final = "test_absent"
ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "SECURITY.md").read_text()
MODEL: Final = TEXT.partition("## Who may try what")[2].partition("\n## ")[0].partition("\nfetch has ")[0]
REFERENCE: Final = re.compile(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")
ACTORS: Final = (
    *("another local user", "another service", "application, taken over", "root", "developer"),
    *("admin of another project", "project admin", "domain manager", "cloud operator", "on the network"),
    *("neighbour VPS", "thief of a disk", "user data", "backup", "deployer, taken over", "client of the API"),
    *("former machine", "log host"),
    *("deployer's database", "blueprints", "hostile or broken barbican", "beacon", "page of elsewhere"),
)


def parts() -> list[tuple[str, list[str]]]:
    """Return each actor with what is said of him, one line of the list each."""
    found = []
    for part in re.split(r"^\*\*", MODEL, flags=re.MULTILINE)[1:]:
        name, _, text = part.partition("**")
        lines = [" ".join(each.split()) for each in re.split(r"^\* ", text, flags=re.MULTILINE)[1:]]
        found.append((name, lines))
    return found


LINES: Final = [(name, line) for name, lines in parts() for line in lines]


@cache
def known_in(path: str) -> frozenset[str]:
    """Return the names of a file's tests."""
    tree = ast.parse((ROOT / path).read_text())
    functions = (each for each in tree.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return frozenset(each.name for each in functions)


def problem(line: str) -> str:
    """Return what is wrong with a line, or nothing."""
    if not line.startswith(("can't ", "can ")):
        return "says neither what he can nor what he can't"
    references = REFERENCE.findall(line)
    if line.startswith("can't ") and not references:
        return "names no test"
    for path, name in references:
        if not (ROOT / path).is_file() or name not in known_in(path):
            return f"names {path}::{name}, which does not exist"
    return ""


@pytest.mark.parametrize(("actor", "line"), LINES, ids=range(len(LINES)))
def test_each_line_names_a_test_that_exists(actor: str, line: str) -> None:
    """And the other way round: what is not protected is said by "can"."""
    assert problem(line) == "", f"{actor}: {line[:60]}"


def test_each_actor_is_there() -> None:
    """With something that he can or can't; of most both."""
    names = [name.lower() for name, _ in parts()]
    assert [actor for actor in ACTORS if not any(actor.lower() in name for name in names)] == []
    assert all(lines for _, lines in parts())
    assert len(LINES) > 60


@pytest.mark.parametrize(
    "line",
    [
        "can't read: nothing is shown",
        "can't read (`tests/unit/test_access.py::test_that_is_not_there`)",
        f"can't read (`tests/unit/{ABSENT}.py::test_no_grants_deny`)",
        "is stopped (`tests/unit/test_access.py::test_no_grants_deny`)",
    ],
)
def test_a_line_without_is_found(line: str) -> None:
    """The control."""
    assert problem(line)
    assert problem("can't read (`tests/unit/test_access.py::test_no_grants_deny`)") == ""
