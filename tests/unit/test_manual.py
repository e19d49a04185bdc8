"""Manual pages and completion know every command, option, unit and configuration key there is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from agent.cli.__main__ import _parser

ROOT = Path(__file__).parents[2]
MAN = ROOT / "packaging" / "man"
COMMANDS = (
    "status",
    "list",
    "wait",
    "watch",
    "refresh",
    "explain",
    "metrics",
    "doctor",
    "run",
    "setup",
    "join",
)


def _page(name: str) -> str:
    """Return a manual page as it reads, without its markup."""
    text = (MAN / name).read_text()
    return (
        re.sub(r"\\f[BIRP]|^\.[A-Z]+ ?|\"", "", text, flags=re.MULTILINE)
        .replace("\\-", "-")
        .replace("\\(aq", "'")
    )


def _help(capsys: pytest.CaptureFixture[str], *words: str) -> set[str]:
    """Return the long options in a command's help."""
    with pytest.raises(SystemExit):
        _parser([*words]).parse_args([*words, "--help"])
    return set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))


def _completed(*words: str) -> set[str]:
    """Return what bash offers for the last of these words."""
    name = words[0]
    line = " ".join(f"'{word}'" for word in words)
    program = (
        f"source {ROOT}/packaging/completions/{name}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
        f'_{name.replace("-", "_")}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_every_command_is_offered_and_has_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the help: none is missing, none is invented."""
    with pytest.raises(SystemExit):
        _parser(["setup", "run"]).parse_args(["--help"])
    named = re.findall(r"^    ([a-z]+) ", capsys.readouterr().out, re.MULTILINE)
    assert tuple(named) == COMMANDS
    assert _completed("vps-secrets", "") >= set(COMMANDS)
    page = _page("vps-secrets.1")
    assert [command for command in COMMANDS if not re.search(rf"^{command}\b", page, re.MULTILINE)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_offered_and_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By the completion of that command, and by the manual page."""
    options = _help(capsys, command)
    assert "--help" in options
    assert options - _completed("vps-secrets", command, "-") == set()
    page = _page("vps-secrets.1")
    assert [option for option in options - {"--help"} if option not in page] == []


def test_the_daemon_s_options_are_offered_and_explained() -> None:
    """As above, by its own help."""
    text = (ROOT / "agent/serve/__main__.py").read_text()
    options = set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', text))
    assert options >= {"--config", "--check-config"}
    assert _completed("vps-secrets-agent", "") >= options
    page = _page("vps-secrets-agent.8")
    assert [option for option in options if option not in page] == []


def test_every_unit_and_program_has_a_manual_page() -> None:
    """By its name, in the NAME section of one page."""
    names = {path.name for path in (ROOT / "systemd").iterdir() if path.suffix != ".sysusers"}
    names |= {path.name for path in (ROOT / "packaging/launchers").iterdir()}
    told = " ".join(_page(page.name).partition("SYNOPSIS")[0] for page in MAN.iterdir())
    missing = [name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w.-])", told)]
    assert missing == []


def test_the_manual_of_the_configuration_is_the_example() -> None:
    """Line for line."""
    example = (ROOT / "packaging/agent.toml").read_text().splitlines()
    page = _page("vps-secrets-agent.toml.5").splitlines()
    plain = [line.replace('"', "") for line in example]
    assert [line for line in plain if line and line not in page] == []
