"""``vps-secrets setup --add``: another application on the same VPS, and nothing of the first one is touched.

A grant is appended, and the application's socket gets an entry more in its access control list, now and (by
a drop-in) whenever systemd makes it again. Neither socket nor agent is restarted: who is connected stays so.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.cli import setup_files, setup_machine, show
from agent.cli.setup_config import added, read
from agent.cli.setup_files import CONFIGURATION, DIRECTORY, DRAFT

if TYPE_CHECKING:
    from agent.cli.setup_config import Given

LET_IN: Final = "/usr/lib/vps-secrets-agent/vps-secrets-let-in"
DROP_IN: Final = Path("/etc/systemd/system/vps-secrets-app.socket.d/applications.conf")
_HEAD: Final = "# written by vps-secrets setup --add: who else gets this socket\n[Socket]\n"
_LINE: Final = f"ExecStartPost=-{LET_IN} "


def add(former: str, given: Given, *, started: bool) -> None:
    """Let it in and say what it and others can read; ``started``: the units are running.

    Raises:
        SetupError, UnchangeableError, OSError: it can't be done; the configuration in force stays.
    """
    caller = _caller(given)
    text = added(former, given)
    setup_files.begin()
    setup_files.write(CONFIGURATION, text.encode(), 0o644)
    draft = str(DRAFT / CONFIGURATION)
    setup_machine.run([setup_machine.AGENT, "--check-config", "--config", draft], "the configuration")
    setup_files.exchange()
    print(f"configuration  {DIRECTORY / CONFIGURATION}: checked, with one grant more", flush=True)
    if caller is not None:
        _keep(caller)
        print(f"socket         {caller.replace(':', ' ')} gets it besides: {DROP_IN}", flush=True)
    setup_machine.reload_units()
    if started:
        if caller is not None:
            setup_machine.run([LET_IN, caller], "the application's socket")
        setup_machine.run(["systemctl", "reload", setup_machine.SERVICE], "the agent")
    for line in _shared(read(text)["grant"]):
        print(f"note           {line}", flush=True)


def _caller(given: Given) -> str | None:
    """Return who gets the socket, as vps-secrets-let-in takes it; None: a unit that runs as root."""
    if given.user:
        setup_machine.group_for(given.user, None)  # raises where there is no such user
        return f"user:{given.user}"
    group = setup_machine.group_for(None, given.unit)
    return f"group:{group}" if group else None


def _keep(caller: str) -> None:
    """Have systemd let it in whenever it makes the socket."""
    text = DROP_IN.read_text() if DROP_IN.exists() else _HEAD
    if f"{_LINE}{caller}\n" in text:
        return
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    DROP_IN.write_text(f"{text}{_LINE}{caller}\n")
    DROP_IN.chmod(0o644)


def _shared(grants: list[dict[str, Any]]) -> list[str]:
    """Return what others can read of the new grant, the last one: perhaps nobody wants that."""
    *others, new = grants
    lines = []
    for other in others:
        common = [
            name
            for name in new["secrets"]
            if any(fnmatchcase(name, glob) or fnmatchcase(glob, name) for glob in other.get("secrets", ()))
        ]
        who = ", ".join(f"{key} {name}" for key, name in other.items() if key != "secrets")
        if common:
            names = ", ".join(map(show.clean, common))
            lines.append(
                f"{show.clean(who)} reads {names}, too: narrow its secrets in {DIRECTORY / CONFIGURATION}"
            )
    return lines
