"""``vps-secrets join`` below a directory of a test's own, which may die at one of its steps.

    python -m lab.testbed.joining DIRECTORY DIE_AFTER [OPTION…]

It is the command itself, real process, network and systemd-creds(1), so it needs root; only where it writes
is elsewhere, and systemd's units are left alone. Where DIRECTORY/serving is there, an agent serves, and what
systemd does is done here: a trial gets its credentials decrypted, and whoever made that file restarts the
agent (:func:`restart`). Its steps are each call to Keystone and Barbican that was answered, each file that
was put in force, the trial, the exchange of the configuration and the restart: after the one numbered
DIE_AFTER (0: none) it kills itself, as a power cut would. The last line of standard error is their number.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.cli import join, join_claim, setup_files, setup_machine
from agent.identity import credential_file
from agent.identity.calls import Line
from common import sealing_key
from lab.testbed.killing import Steps

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SERVING: Final = "serving"
ASKED: Final = "restart"
RESTART_S: Final = 60.0


def decrypt(directory: Path, into: Path, *, keys: Path | None = None) -> None:
    """Give the credentials of a directory, and the sealing key of another one, as systemd does."""
    for name, place in ((credential_file.KEYSTONE_CREDENTIAL, directory), (sealing_key.CREDENTIAL, keys)):
        content = credential_file.read(name, place or directory)
        if content is not None:
            path = into / name
            path.touch(0o600)
            path.write_bytes(content)


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """Return a directory that is on no disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:  # mode 0700, of its own
        yield Path(made)


def try_draft() -> Any:
    """Run a trial as its unit does."""
    with in_memory() as credentials:
        decrypt(setup_files.DRAFT, credentials, keys=setup_files.DIRECTORY)
        configuration = str(setup_files.DRAFT / setup_files.CONFIGURATION)
        done = subprocess.run(
            [sys.executable, "-m", "agent.fetch", "--trial", "--config", configuration],
            cwd=ROOT,
            env=os.environ | {"CREDENTIALS_DIRECTORY": str(credentials)},
            capture_output=True,
            check=False,
        )
    return json.loads(done.stdout)


def restart(*, socket: bool) -> None:
    """Have whoever runs the agent start it anew, and wait until it is."""
    assert not socket
    asked = setup_files.DIRECTORY.parent / ASKED
    asked.touch()
    end = time.monotonic() + RESTART_S
    while asked.exists():
        assert time.monotonic() < end, "nobody restarts the agent"
        time.sleep(0.02)


def main() -> int:
    """Join below a directory."""
    directory, die_after, given = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    serving = (directory / SERVING).exists()
    agent = directory / "agent"
    agent.write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m agent.serve "$@"\n')
    agent.chmod(0o755)
    steps = Steps(die_after)
    places: list[tuple[Any, str, Any]] = [
        (setup_files, "DIRECTORY", directory / "etc"),
        (setup_files, "DRAFT", directory / ".draft"),
        (join_claim, "STATE", directory / "state"),
        (setup_machine, "RUNNING", directory / ("etc" if serving else "no systemd")),
        (setup_machine, "DROP_IN", directory / "drop-in" / "group.conf"),
        (setup_machine, "AGENT", str(agent)),
    ]
    if serving:
        places += [
            (setup_machine, "try_draft", steps.counted(try_draft)),
            (setup_machine, "restart", steps.counted(restart)),
            *((setup_machine, name, lambda: None) for name in OF_SYSTEMD),
        ]
    for module, name, place in places:
        setattr(module, name, place)
    for owner, step in ((Line, "call"), (credential_file, "put"), (setup_files, "exchange")):
        setattr(owner, step, steps.counted(getattr(owner, step)))
    parser = argparse.ArgumentParser()
    parser.set_defaults(control_socket=str(directory / "control.sock"))
    join.add_options(parser)
    status = join.run(parser.parse_args(given))
    print(steps.taken, file=sys.stderr)
    return status


OF_SYSTEMD: Final = ("check_loads_credential", "reload_units", "start_renewal")

if __name__ == "__main__":
    sys.exit(main())
