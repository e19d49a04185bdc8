"""agent/run/shape.py: what a command gets, and what can't be handed over so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.run import shape
from agent.run.errors import NotYetError, RunError

CANARY = b"canary-Hc4kQ"
VALUES = {"A": CANARY, "B_2": b"two\nlines", "c.d": b"\xff"}
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


def test_all_or_those_that_are_named() -> None:
    """One that is named and missing is waited for; the words name it."""
    assert shape.chosen(VALUES, ()) == VALUES
    assert shape.chosen(VALUES, ("B_2",)) == {"B_2": b"two\nlines"}
    with pytest.raises(NotYetError, match="no value for X, Y") as caught:
        shape.chosen(VALUES, ("A", "X", "Y"))
    assert CANARY.decode() not in str(caught.value)


def test_variables() -> None:
    """Byte for byte, so also what is not UTF-8."""
    assert shape.environment({"A": CANARY, "_b": b"\xff\n"}) == {b"A": CANARY, b"_b": b"\xff\n"}


@pytest.mark.parametrize("name", ["c.d", "1A", "a-b"])
def test_a_name_that_is_no_variable(name: str) -> None:
    """Is named, with the way out."""
    with pytest.raises(RunError, match=rf"no names of environment variables: {name}; .*--names.*--files"):
        shape.environment({"A": CANARY, name: b""})


def test_a_zero_byte_can_not_be_in_the_environment() -> None:
    """execve(2) would end the value there."""
    with pytest.raises(RunError, match="zero byte can't be in the environment: A;") as caught:
        shape.environment({"A": CANARY + b"\0", "B": b""})
    assert CANARY.decode() not in str(caught.value)


def test_a_template() -> None:
    """Spaces may stand inside; a shell's variables are left alone; values are not rendered again."""
    text = b"URL={{A}}/x\n{{ c.d }}{{B_2}}$A ${A} {} { {A} }\n"
    assert shape.rendered(text, VALUES, "t") == b"URL=%s/x\n\xfftwo\nlines$A ${A} {} { {A} }\n" % CANARY
    assert shape.rendered(b"{{A}}{{B}}", {"A": b"{{B}}", "B": b"b"}, "t") == b"{{B}}b"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{{A}}\n{{Z}} {{Y}}", "/etc/t: no value for Y, Z"),
        (b"{{A}}\n\n{{A B}}", "/etc/t, line 3: between {{ and }} only the name"),
        (b"{{}}", "/etc/t, line 1"),
        (b"{{ -x }}", "/etc/t, line 1"),
    ],
)
def test_a_template_that_is_wrong(text: bytes, reason: str) -> None:
    """Says the file and line; nothing is rendered."""
    with pytest.raises(RunError) as caught:
        shape.rendered(text, VALUES, "/etc/t")
    assert reason in str(caught.value)
    assert CANARY.decode() not in str(caught.value)


@given(st.dictionaries(NAMES, st.binary(max_size=50), min_size=1))
def test_every_value_arrives_byte_for_byte(values: dict[str, bytes]) -> None:
    """Whatever is in it."""
    text = b"|".join(b"{{%s}}" % name.encode() for name in values)
    assert shape.rendered(text, values, "t") == b"|".join(values.values())


@pytest.mark.parametrize(
    ("template", "file"),
    [("/etc/a/.env.tmpl", ".env"), ("x.conf.in", "x.conf"), ("x.template", "x"), ("x", "x"), (".in", ".in")],
)
def test_the_file_of_a_template(template: str, file: str) -> None:
    """Without the folder and the suffix."""
    assert shape.file_of(template) == file
