"""deployer/kinds/value.py: a value leaves by one door, and that door is used where values are made."""

from __future__ import annotations

import ast
import copy
import dataclasses
import gc
import json
import logging
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from deployer.kinds.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CANARY: Final = b"canary-5f0c1b7a"
ROOT: Final = Path(__file__).parents[2]
DOOR: Final = "reveal"
MAKING: Final = "deployer.worker.making"
"""The one module besides the kinds in which one function may open a value: it sends it to Barbican."""


@dataclasses.dataclass
class Holder:
    """What a careless module might do with a value."""

    value: Value


def test_it_is_opened_by_reveal_alone() -> None:
    """As bytes that can't be changed through it."""
    with Value(CANARY) as value:
        view = value.reveal()
        assert bytes(view) == CANARY
        assert value.size == len(CANARY)
        with pytest.raises(TypeError):
            view[0] = 0


@pytest.mark.parametrize(
    "use",
    [
        *(bytes, bytearray, list, len, hash, iter, pickle.dumps, copy.copy, copy.deepcopy, json.dumps),
        *(lambda value: f"{value}", lambda value: format(value, "x"), lambda value: b"%b" % value),
        *(lambda value: value[0], lambda value: value + b"x", lambda value: b"" in value, memoryview),
        *(lambda value: value < Value(b""), lambda value: json.dumps({"value": value})),
        lambda value: dataclasses.asdict(Holder(value)),
        lambda value: value.__getstate__(),
        lambda value: value.__reduce_ex__(4),
        vars,
        lambda value: setattr(value, "note", "x"),
        lambda _: type("Louder", (Value,), {})(CANARY).reveal(),
    ],
)
def test_every_other_way_is_refused(use: Callable[[Any], object]) -> None:
    """With an error that does not hold it either."""
    with Value(CANARY) as value, pytest.raises((TypeError, AttributeError)) as caught:
        use(value)
    assert CANARY.decode() not in repr(caught.value)


def test_printing_shows_nothing(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """Not in a log either, nor as a part of something else, nor with ``%``."""
    with Value(CANARY) as value:
        print(value, [value], {"a": value}, Holder(value))  # noqa: T201  # what is tried
        logging.getLogger("test").warning("made %s %r", value, value)
        assert "%s %r" % (value, value) == "<Value> <Value>"  # noqa: UP031  # what is tried
        assert str(value) == repr(value) == "<Value>"
    assert "canary" not in capsys.readouterr().out + caplog.text
    assert "<Value>" in caplog.text


def test_it_is_wiped_when_it_is_closed() -> None:
    """Also what was given as a bytearray, and what somebody still holds."""
    given = bytearray(CANARY)
    value = Value(given)
    assert given == bytes(len(CANARY))
    view = value.reveal()
    value.close()
    value.close()
    assert view == bytes(len(CANARY))
    with pytest.raises(ValueError, match="closed"):
        value.reveal()


def test_it_is_wiped_when_it_is_forgotten() -> None:
    """Whoever loses it without closing it leaves zeros behind."""
    view = Value(CANARY).reveal()
    gc.collect()
    assert view == bytes(len(CANARY))


def test_it_is_wiped_when_what_used_it_fails() -> None:
    """And the error is not hidden."""
    value = Value(CANARY)
    view = value.reveal()
    with pytest.raises(ZeroDivisionError), value:
        print(1 / 0)  # noqa: T201
    assert view == bytes(len(CANARY))


def test_two_are_equal_when_their_bytes_are() -> None:
    """Compared in a time that does not depend on them, by hmac.compare_digest; never with plain bytes."""
    assert Value(CANARY) == Value(CANARY)
    assert Value(CANARY) != Value(CANARY + b"x")
    assert Value(CANARY) != CANARY
    source = (ROOT / "deployer/kinds/value.py").read_text()
    assert source.count("compare_digest(") == source.count(" == ") + 1 == 1


def openings(tree: ast.Module) -> Iterator[str]:
    """Yield the function (or "the module") around each use of the door's name, however it is reached."""

    def walk(node: ast.AST, inside: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            around = inside
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and inside == "the module":
                around = f"{child.name}, line {child.lineno}"
            if (isinstance(child, ast.Attribute) and child.attr == DOOR) or (
                isinstance(child, ast.Constant)
                and isinstance(child.value, str)
                and (child.value == DOOR or "_Value__" in child.value)
            ):
                yield inside
            if isinstance(child, ast.Attribute) and child.attr.startswith("_Value__"):
                yield inside
            yield from walk(child, around)

    yield from walk(tree, "the module")


def test_a_value_is_opened_by_the_kinds_and_one_function_of_making_only() -> None:
    """No other function of the deployer ever has its bytes: by name, by getattr, or by its hidden field."""
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): set(openings(ast.parse(path.read_text())))
        for path in (ROOT / "deployer").rglob("*.py")
    }
    elsewhere = {
        path: where for path, where in found.items() if where and not path.startswith("deployer.kinds.")
    }
    assert elsewhere.keys() <= {MAKING}
    assert len(elsewhere.get(MAKING, ())) <= 1
    assert any(found.values())  # it looked at something


@pytest.mark.parametrize(
    "source",
    [
        "def f(v):\n    return v.reveal()",
        "def f(v):\n    return getattr(v, 'reveal')()",
        "class A:\n    def f(self, v):\n        return v._Value__content",
        "def f(v):\n    return getattr(v, '_Value__content')",
        "def f(v):\n    def g():\n        return [x.reveal() for x in v]",
        "async def f(v):\n    send(v.reveal())",
    ],
)
def test_an_opening_is_found(source: str) -> None:
    """Whatever it is written like; a function inside another one is a part of that."""
    (function,) = set(openings(ast.parse(source)))
    assert function.startswith("f, line ")
