"""docs/blueprints.md: its examples parse, its tables have every key, its SQL is what the program prints."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Final

import pytest

from common.names import SecretName
from deployer.config.zones import zone
from deployer.core import blueprint, options
from deployer.core.blueprint import parse
from deployer.core.options import PostgresqlOptions
from deployer.kinds.postgresql_setup import setup_sql

ROOT: Final = Path(__file__).parents[2]
DOCUMENT: Final = (ROOT / "docs/blueprints.md").read_text()
EXAMPLES: Final = re.findall(r"^```toml\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_each_example_parses(number: int) -> None:
    """As it stands there."""
    assert parse(EXAMPLES[number].encode(), Path("backend.toml"), zone).secrets


def test_the_first_example_has_every_kind() -> None:
    """So that a reader sees each once."""
    read = parse(EXAMPLES[0].encode(), Path("backend.toml"), zone)
    assert {spec.kind for spec in read.secrets.values()} == options.READERS.keys()


def documented(text: str) -> set[str]:
    """Return the keys of the tables of a section: those in the first column whose head is "key"."""
    tables = [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    rows = [row for head, _, *rows in tables if head.startswith("| key |") for row in rows]
    return {key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])}


def asked(source: str) -> set[str]:
    """Return the keys that a reader asks its table for."""
    calls = r'table\.(?:has|text|texts|integer|choice|boolean|seconds|seconds_or_never|required)\(\s*"(\w+)"'
    return set(re.findall(calls, source))


def test_every_key_of_every_secret_is_in_the_first_table() -> None:
    """And no other."""
    section = DOCUMENT.partition("## Every secret\n")[2].partition("## Kinds\n")[0]
    assert documented(section) == asked(inspect.getsource(blueprint))
    assert len(documented(section)) == 6


@pytest.mark.parametrize("kind", options.READERS)
def test_every_key_of_a_kind_is_in_its_table(kind: str) -> None:
    """And no other."""
    section = DOCUMENT.partition(f"### `{kind}`\n")[2].partition("\n##")[0]
    wanted = asked(inspect.getsource(options.READERS[kind]))
    if kind == "command":
        wanted = wanted - {"hook"} | {"command", "bytes", "encoding"}
        assert "`hook` is another name" in section
    assert documented(section) == wanted


def test_the_sql_is_what_the_program_prints() -> None:
    """For the first example."""
    spec = parse(EXAMPLES[0].encode(), Path("backend.toml"), zone).secrets[SecretName("DATABASE_URL")]
    assert isinstance(spec.options, PostgresqlOptions)
    printed = setup_sql(spec.options, database="app", owners={"vps-prod-001": "app_owner"})
    assert (ROOT / "docs/examples/postgresql-setup.sql").read_text() == printed
