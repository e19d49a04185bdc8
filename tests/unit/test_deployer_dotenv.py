"""A .env file with all its traps; and that nothing of it is ever in a remark."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.cli import dotenv

CASES = {
    "plain": (b"A=one\nB=two\n", {"A": b"one", "B": b"two"}),
    "export and spaces": (b"export A = one  \n  B=two", {"A": b"one", "B": b"two"}),
    "comments": (b"# A=no\nA=one # tail\nC='a # b'\n\n", {"A": b"one", "C": b"a # b"}),
    "single quotes": (rb"A='one\n$x'", {"A": rb"one\n$x"}),
    "double quotes": (rb'A="one\ntwo"', {"A": b"one\ntwo"}),
    "back quotes": (b'A=`it\'s "so"`', {"A": b'it\'s "so"'}),
    "several lines": (b'A="-----BEGIN\nabc\n-----END"\nB=1', {"A": b"-----BEGIN\nabc\n-----END", "B": b"1"}),
    "CR LF": (b"A=one\r\nB='two'\r\n", {"A": b"one", "B": b"two"}),
    "byte order mark": (b"\xef\xbb\xbfA=one", {"A": b"one"}),
    "equals signs": (b"A=YWJj==\n", {"A": b"YWJj=="}),
    "the last one counts": (b"A=one\nA=two\n", {"A": b"two"}),
    "empty": (b"A=\nB=''\nC=x", {"C": b"x"}),
    "not ASCII": ("A=grüße".encode(), {"A": "grüße".encode()}),
}


@pytest.mark.parametrize(("content", "values"), CASES.values(), ids=CASES.keys())
def test_what_a_file_says(content: bytes, values: dict[str, bytes]) -> None:
    """Each trap by itself."""
    found = dotenv.parse(content)
    assert found.values == values
    assert found.mistakes == ()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"A=one\nnonsense canary-4711\n", "line 2"),
        (b"A=canary-4711#x", "line 1"),
        (b'A="canary-4711\n', "line 1"),
        (b"1$=canary-4711", "line 1"),
        (b"\xff\xfecanary-4711", "UTF-8"),
    ],
)
def test_what_is_wrong_is_told_by_its_line(content: bytes, line: str) -> None:
    """And never by what stands there."""
    found = dotenv.parse(content)
    assert any(line in mistake for mistake in found.mistakes)
    assert "canary" not in str(found)


def test_warnings() -> None:
    """A name that comes twice, one that uses another, an empty one."""
    found = dotenv.parse(b"A=1\nA=2\nB=${A}x\nC=\n")
    assert [warning.partition(":")[0] for warning in found.warnings] == ["line 2", "line 3", "line 4"]


@given(st.text())
def test_nothing_of_a_file_is_shown(text: str) -> None:
    """Whatever the file has: it ends, and its remarks are of names and lines."""
    found = dotenv.parse(text.encode())
    for remark in (*found.mistakes, *found.warnings):
        assert all(value.decode() not in remark for value in found.values.values() if len(value) > 12)


@pytest.mark.parametrize("name", [name for name in CASES if name != "empty"])
def test_node_reads_the_same(name: str) -> None:
    """Node's own parser (util.parseEnv, since 20.12) is what applications that move here have used."""
    node = shutil.which("node")
    assert node is not None, "Node.js is missing: apt-get install nodejs"
    content, values = CASES[name]
    script = (
        "const {parseEnv} = require('node:util');"
        "let b = ''; process.stdin.on('data', d => b += d).on('end', () => "
        "console.log(JSON.stringify(parseEnv(b.replace(/^\\uFEFF/, '').replaceAll('\\r\\n', '\\n')))))"
    )
    ran = subprocess.run([node, "-e", script], input=content, capture_output=True, check=True)
    assert {key: value.encode() for key, value in json.loads(ran.stdout).items()} == values
