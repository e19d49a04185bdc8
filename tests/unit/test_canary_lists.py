"""The canary of the deployer covers every route, command, table and template; and finds what is there."""

from __future__ import annotations

import argparse
import base64
import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deployer.api import contract
from deployer.cli.__main__ import _parser
from deployer.database.schema import metadata
from tests.integration import canary_lists
from tests.integration.canary_lists import COMMANDS, ROUTES, TABLES, TEMPLATES, leaks

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
VALUE = b"a value/of~a secret+" + bytes((0xC3, 0xA4)) + b'"\n'


def commands(parser: argparse.ArgumentParser, before: str = "") -> Iterator[str]:
    """Yield every command of a parser."""
    below = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    for choices in below:
        for name, one in choices.choices.items():
            yield from commands(one, f"{before} {name}".strip())
    if not below:
        yield before


def test_every_route_is_on_the_list() -> None:
    """A new one must be asked by the canary, or by a test that the list names."""
    assert {each.id for each in contract.Routes().operations} == ROUTES.keys()


def test_every_command_is_on_the_list() -> None:
    """Of the program, by its own parser."""
    assert set(commands(_parser())) == COMMANDS.keys()


def test_every_table_is_on_the_list() -> None:
    """Of the schema, which a test of the migrations compares with both databases."""
    assert {table.name for table in metadata.sorted_tables} == TABLES


def test_every_template_is_on_the_list() -> None:
    """By its file."""
    folder = ROOT / "deployer/api/dashboard/templates"
    assert {path.name for path in folder.iterdir()} == TEMPLATES.keys()


@pytest.mark.parametrize("lists", [ROUTES, COMMANDS])
def test_what_is_covered_elsewhere_is_there(lists: dict[str, str]) -> None:
    """The file that is named names it."""
    for name, path in lists.items():
        if path != canary_lists.HERE:
            assert name.split()[-1] in (ROOT / path).read_text()


@pytest.mark.parametrize(
    "planted",
    [
        VALUE,
        VALUE.hex().encode(),
        VALUE.hex().upper().encode(),
        base64.b64encode(b"x" + VALUE),
        base64.b64encode(b"xy" + VALUE),
        base64.urlsafe_b64encode(b"xyz" + VALUE),
        json.dumps({"a": VALUE.decode()}).encode(),
        f"Traceback: {VALUE!r}".encode(),
        VALUE.decode().encode("utf-16-le"),
    ],
    ids=range(9),
)
def test_a_value_that_is_there_is_found(planted: bytes) -> None:
    """In each of the usual encodings, with something before and behind it."""
    told = {"empty": b"", "full": b"before " + planted + b" behind"}
    assert leaks({"it": VALUE}, told) == {("it", "full")}
    assert leaks({"it": VALUE}, {"compressed": gzip.compress(planted)}) == set()  # why nothing compresses
