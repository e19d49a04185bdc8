"""What documents, manual pages, messages and comments name exists: links, files, commands, decisions."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from agent.cli.__main__ import _parser
from common import places
from deployer.cli.__main__ import _parser as deployer_parser

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = "agent|common|deployer|lab|tests|docs|packaging|systemd|scripts"
DOCUMENTS: Final = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")})
MANUAL: Final = sorted((ROOT / "packaging/man").iterdir())
SOURCES: Final = sorted(
    path
    for name in (*FOLDERS.split("|"), ".ci", "Makefile", "pyproject.toml")
    for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))
    if path.is_file()
    and path.suffix not in {".md", ".png", ".svg"}
    and path.parent.name not in {"man", "__pycache__"}
)
# Not ours: what a machine has, and what tests make there.
ELSEWHERE: Final = ("/", "~", "$", "http", "build/", "*")
NOT_OURS: Final = {
    "remote.py",
    "probe.py",
    "load.py",
    "conf.py",
    "usercustomize.py",
    "sitecustomize.py",
    "test_one.py",
}


def the_id(path: Path) -> str:
    """Name a test's file."""
    return str(path.relative_to(ROOT))


@cache
def files() -> frozenset[str]:
    """Return every file and folder of the repository, by its path and by each shorter end of it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    whole = {path for name in listed if (ROOT / name).exists() for path in (Path(name), *Path(name).parents)}
    return frozenset("/".join(path.parts[start:]) for path in whole for start in range(len(path.parts)))


@cache
def words_of(path: Path) -> str:
    """Return what a file says to people: of Python its comments and strings, else all of it."""
    text = path.read_text(errors="replace")
    if path in MANUAL:
        return re.sub(r"\\f[BIRP]|^\.[A-Z]+ ?|\"", "", text, flags=re.MULTILINE).replace("\\-", "-")
    if path.suffix != ".py":
        return text
    strings = [
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    # a "#" begins a comment, or stands in a string, which is looked at anyway
    return "\n".join([*strings, *re.findall("#.*", text)])


@cache
def code_in(path: Path) -> str:
    """Return what is marked as code, one piece a line: in back-quotes, and indented lines of a document."""
    text = words_of(path)
    spans = re.findall(r"(?<!`)``?([^`]+)``?(?!`)", text)
    if path.suffix == ".md":
        spans += re.findall(r"^    (\S.*)$", text.replace("\\\n", " "), re.MULTILINE)
    if path in MANUAL:
        spans += text.splitlines()
    return "\n".join(" ".join(span.split()) for span in spans)


def anchor(heading: str) -> str:
    """Return the anchor that a heading gets, as GitHub makes it."""
    text = re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def missing_files(text: str) -> list[str]:
    """Return each name of a file of ours in a text that is no file: by its path, or the end of one."""
    named = re.findall(r"[\w./~$*{}<>@:-]*\w\.(?:md|py|mjs|sh|svg|png)\b(?![\w(/*-]|\.\w)", text)
    named += re.findall(rf"(?<![\w./-])(?:{FOLDERS})/[\w.@/-]*\w(?![\w*{{<-])", text)
    missing = []
    for name in named:
        plain = re.sub(r"^(?:\.{1,2}/)+", "", name)
        ours = not name.startswith(ELSEWHERE) and "://" not in name and "{" not in name
        placeholder = Path(plain).name in NOT_OURS or Path(plain).stem.isupper()
        decision = re.fullmatch(r"docs/adr/\d{4}", plain) and any(ROOT.glob(f"{plain}-*.md"))
        if ours and not placeholder and not decision and files().isdisjoint({plain, f"{plain}.py"}):
            missing.append(name)
    return missing


@cache
def commands() -> dict[str, set[str]]:
    """Return every subcommand of vps-secrets with its options."""
    (subparsers,) = (
        action
        for action in _parser(["metrics", "doctor", "setup", "run", "join"])._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return {
        name: {option for action in parser._actions for option in action.option_strings}
        for name, parser in subparsers.choices.items()
    }


@cache
def deploy_commands() -> dict[str, set[str]]:
    """Return every subcommand of vps-secrets-deploy, with its verb where it has one, and its options."""
    found = {}
    ahead = [("", deployer_parser())]
    while ahead:
        name, parser = ahead.pop()
        below = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
        ahead += [(f"{name} {verb}".strip(), each) for group in below for verb, each in group.choices.items()]
        found[name] = {option for action in parser._actions for option in action.option_strings}
    return found


def missing_deploy_commands(code: str) -> Iterator[str]:
    """Yield each command of vps-secrets-deploy in code that there is not, or an option of it."""
    for rest in re.findall(r"(?<![\w./-])vps-secrets-deploy ([a-z].*)", code):
        first, second = [*rest.split(), "", ""][:2]
        verbs = second.split("|") if f"{first} {second.split('|')[0]}" in deploy_commands() else [""]
        for name in (f"{each} {verb}".strip() for each in first.split("|") for verb in verbs):
            if name not in deploy_commands():
                yield f"vps-secrets-deploy {name}"
                continue
            options = re.findall(r"(?<!\S)\[?(--[a-z][a-z-]*)", rest.partition("; ")[0].partition(" && ")[0])
            yield from (f"{name} {option}" for option in options if option not in deploy_commands()[name])


def missing_commands(code: str) -> list[str]:
    """Return each command in code that there is not: make targets, modules, ours with its options."""
    makefile = (ROOT / "Makefile").read_text()
    missing = [
        f"make {target}"
        for target in re.findall(r"(?:^|[ (])make ([a-z][\w-]*)", code, re.MULTILINE)
        if target != "python3-venv" and not re.search(rf"^{target}:", makefile, re.MULTILINE)
    ]
    for command, rest in re.findall(r"(?<![\w./-])vps-secrets ([a-z][a-z-]*)(.*)", code):
        options = re.findall(r"(?<!\S)\[?(--[a-z][a-z-]*)", rest.partition("|")[0])
        if command not in commands():
            missing.append(f"vps-secrets {command}")
        else:
            missing += [f"{command} {option}" for option in options if option not in commands()[command]]
    missing += missing_deploy_commands(code)
    daemon = (ROOT / "agent/serve/__main__.py").read_text()
    for rest in re.findall(r"(?<![\w./-])(?<!-u )vps-secrets-agent ((?:\[?--).*)", code):
        missing += [
            f"agent {option}" for option in re.findall(r"--[a-z-]+", rest) if f'"{option}"' not in daemon
        ]
    for module in re.findall(r"python3? -m ([\w.]+)", code):
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            missing.append(f"python -m {module}")
    return missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=the_id)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link: its file, and its anchor among that file's headings."""
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        target, _, wanted = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        path = (document.parent / target) if target else document
        inside = ROOT / "docs"  # the packages have this folder only
        leaves = document.is_relative_to(inside) and not path.resolve().is_relative_to(inside)
        if not path.exists() or leaves:
            missing.append(link)
        elif wanted:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            missing += [link] if wanted not in {anchor(heading) for heading in headings} else []
    assert missing == []


def missing_in(path: Path) -> list[str]:
    """Return what a file names and is not there."""
    decisions = {int(file.name[:4]) for file in (ROOT / "docs/adr").glob("[0-9]*.md")}
    missing = missing_files(words_of(path)) + missing_commands(code_in(path))
    return missing + [
        f"ADR {number}"
        for number in re.findall(r"\bADR (\d+)", words_of(path))
        if int(number) not in decisions
    ]


def folder_of(path: Path) -> str:
    """Return the folder of the tree that a file is in; the files in none are together."""
    return path.relative_to(ROOT).parts[0] if path.parent != ROOT else "."


@pytest.mark.parametrize("folder", sorted({folder_of(path) for path in [*DOCUMENTS, *MANUAL, *SOURCES]}))
def test_what_is_named_exists(folder: str) -> None:
    """Files, folders, make targets, scripts, commands with their options, modules, decisions."""
    here = [path for path in [*DOCUMENTS, *MANUAL, *SOURCES] if folder_of(path) == folder]
    missing = {
        str(path.relative_to(ROOT)): missing_in(path) for path in here if path.name != "test_documents.py"
    }
    assert {path: names for path, names in missing.items() if names} == {}


@pytest.mark.parametrize(
    "text",
    [
        "see docs/design.md",
        "(agent/serve/keeper.py)",
        "calls lab/testbed/throwaway_ca.py first",
        "as translate.py does",
        "in `serve/kept.py`.",
        "tests/cloud/fakes has them",
    ],
)
def test_a_file_that_is_gone_is_found(text: str) -> None:
    """Whether the path is whole, the end of one, or a folder's."""
    assert missing_files(text) != []


@pytest.mark.parametrize(
    "code",
    [
        "make no-such",
        "sudo vps-secrets forget",
        "vps-secrets wait --until 3",
        "vps-secrets-agent --check",
        "python -m tests.no_such",
    ],
)
def test_a_command_that_is_gone_is_found(code: str) -> None:
    """Target, subcommand, option, module."""
    assert missing_commands(code) != []


def test_what_is_there_is_not_missing() -> None:
    """What stands in a sentence, in the ways in which it may be written."""
    text = "docs/adr/0005, rotation.py; serve/http/server.py, https://example.org/x.md, /x.py (tests/unit)."
    assert missing_files(text) == []
    assert (
        missing_commands("make demo KEEP=1\nsudo vps-secrets setup --replace <x\npython -m lab.fleet") == []
    )


def test_every_decision_has_its_status_and_date() -> None:
    """In its third line; the list has both, and the title."""
    rows = re.findall(r"^\| \[(\d+)\]\((.*?)\) \| (.*) \| (.*) \| (.*) \|$", _list(), re.MULTILINE)
    decisions = []
    for path in sorted((ROOT / "docs/adr").glob("[0-9]*.md")):
        match = re.match(
            r"# (\d+)\. (.*)\n\nStatus: ([^.]+)\. Date: (\d{4}-\d\d-\d\d)(?:.|\n)*?\n\n", path.read_text()
        )
        assert match, f"{path.name} begins otherwise than # N. Title, Status: WORD. Date: YYYY-MM-DD"
        assert int(path.name[:4]) == int(match[1])
        decisions.append((match[1], path.name, match[2], match[3], match[4]))
    assert rows == decisions


def _list() -> str:
    return (ROOT / "docs/adr/README.md").read_text()


def test_the_units_name_manual_pages_that_exist() -> None:
    """Documentation= of each unit, and what the pages themselves refer to."""
    pages = {(path.stem, path.suffix[1:]) for path in MANUAL}
    named = set()
    for unit in (ROOT / "systemd").iterdir():
        for line in re.findall(r"^Documentation=(.*)$", unit.read_text(), re.MULTILINE):
            for word in line.split():
                assert word.startswith(("man:", "https://")), f"{unit.name}: {word}"
                named |= set(re.findall(r"man:(.*)\((\d)\)", word))
    for path in MANUAL:
        named |= set(re.findall(r"(vps-secrets[\w.-]*) \((\d)\)", words_of(path)))
    assert len(named) >= 4
    assert named - pages == set()


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
