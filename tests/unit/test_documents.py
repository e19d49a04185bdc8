"""What the documents name exists: files, links, make targets, configuration keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common import places

ROOT = Path(__file__).parents[2]
FOLDERS = "agent|common|deployer|lab|tests|docs|packaging|systemd|scripts"
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_files_exist(document: Path) -> None:
    """Every relative link, and every path of ours in code marks."""
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (document.parent / link).exists()]
    named = re.findall(rf"\b((?:{FOLDERS})/[\w./-]+\.\w+)", text)
    missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_the_commands_of_the_readme_exist() -> None:
    """Make targets, and the scripts beside them."""
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"\bmake (\w+)", text)) - {"python3"}
    makefile = (ROOT / "Makefile").read_text()
    assert targets >= {"demo", "test", "bench"}
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
    assert [
        name for name in re.findall(r"scripts/(\w+)", text) if not (ROOT / "scripts" / name).exists()
    ] == []


def test_every_problem_type_is_documented() -> None:
    """The socket API names each type that the agent can answer with."""
    errors = (ROOT / "agent/core/errors.py").read_text()
    types = re.findall(r"= Problem\(\s*\d+,\s*\"([a-z-]+)\"", errors)
    text = (ROOT / "docs/socket-api.md").read_text()
    assert len(types) > 15
    assert [name for name in types if f"`{name}`" not in text] == []


def test_the_sockets_are_where_the_units_make_them() -> None:
    """The defaults of the configuration and the command are those of systemd/*.socket."""
    units = "\n".join(path.read_text() for path in (ROOT / "systemd").glob("*.socket"))
    made = re.findall(r"^ListenStream=(\S+)", units, re.MULTILINE)
    assert {places.APP_SOCKET, places.CONTROL_SOCKET, places.FETCH_SOCKET} < set(made)


@pytest.mark.parametrize(
    "file",
    [path for path in [*DOCUMENTS, *(ROOT / "docs/examples").glob("*.*")] if "curl " in path.read_text()],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_curl_says_why_it_was_refused(file: Path) -> None:
    """Every command: silent about progress, not about errors; a refusal has a status and its reason."""
    commands = re.findall(r"^ *(?:sudo -u \S+ |[a-z]+=\S*\$\()?(curl .*)$", file.read_text(), re.MULTILINE)
    quiet = ("-sS", "--silent --show-error")
    assert [c for c in commands if "--fail-with-body" not in c or not any(q in c for q in quiet)] == []
