"""Options of ``vps-secrets run``, and the way from them to a running command."""

from __future__ import annotations

import os
import pwd
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.run import private, shape, supervisor
from agent.run.errors import NotYetError, RunError, tell
from agent.run.reading import Bundle, read
from agent.run.supervisor import Manner, Supervisor, Watcher
from common.durations import seconds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

FILES_VARIABLE: Final = b"VPS_SECRETS_FILES"
ASK_AGAIN_S: Final = 1.0
_PLAIN_MODE: Final = 0o400


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options and the command's words."""
    change = parser.add_mutually_exclusive_group()
    change.add_argument(
        "--restart", action="store_true", help="start the command again when its secrets change"
    )
    text = "send it when the secrets change; with --files or --template"
    change.add_argument("--signal", type=_signal, metavar="SIGNAL", help=text)
    parser.add_argument(
        "--names", type=_names, default=(), metavar="A,B", help="only these; each must have a value"
    )
    text = "a file for each secret, in a private directory of memory: $VPS_SECRETS_FILES"
    parser.add_argument("--files", action="store_true", help=text)
    text = "a file with {{NAME}} in it, rendered into that directory; .tmpl at its end goes; repeatable"
    parser.add_argument("--template", action="append", default=[], metavar="FILE", help=text)
    parser.add_argument(
        "--env", action="store_true", help="environment variables also with --files or --template"
    )
    parser.add_argument("--mode", type=_mode, default=_PLAIN_MODE, help="of the files; default: 0400")
    parser.add_argument("--owner", metavar="USER", help="of the files; root only")
    parser.add_argument("--directory", metavar="PATH", help="where the private directory is to appear")
    text = "seconds without a further change before one is acted on; default: %(default)g"
    parser.add_argument("--debounce", type=seconds, default=2.0, metavar="SECONDS", help=text)
    parser.add_argument(
        "--stop-signal", type=_signal, default=signal.SIGTERM, metavar="SIGNAL", help="default: TERM"
    )
    text = "seconds until KILL; default: %(default)g"
    parser.add_argument("--stop-timeout", type=seconds, default=30.0, metavar="SECONDS", help=text)
    text = "how long to wait for the agent and the names at the start; default: %(default)g"
    parser.add_argument("--timeout", type=seconds, default=60.0, metavar="SECONDS", help=text)
    parser.add_argument(
        "command", nargs="+", metavar="COMMAND", help="after --: the program and its arguments"
    )


def run(options: argparse.Namespace) -> int:
    """Start the command with its secrets. Returns its exit status, or 125 where run itself failed."""
    try:
        return _run(options)
    except RunError as error:
        tell(str(error))
        return error.status


def _run(options: argparse.Namespace) -> int:
    if options.signal is not None and not (options.files or options.template):
        raise RunError("--signal needs --files or --template: an environment can't change; or --restart")
    if options.owner and os.geteuid():
        raise RunError("--owner needs root")
    directory = None
    if options.files or options.template:
        directory = private.place(options.directory, dict(os.environ))
        private.cover(directory)
    private.hide_from_debuggers()
    prepared = Prepared(options, directory)
    bundle = _first(options, prepared)
    if not (options.restart or options.signal is not None):
        _become(options.command, prepared.environment)
    manner = Manner(options.debounce, options.signal, options.stop_signal, options.stop_timeout)
    made = Supervisor(options.command, manner)
    made.start(prepared.environment)
    watcher = Watcher(options.socket, bundle.generation)

    told = ""

    def renew() -> Mapping[bytes, bytes] | None:
        nonlocal told
        seen = bundle.generation  # an agent that is away tells of the change once more when it is back
        different = False
        try:
            found = read(options.socket)
            seen = found.generation
            different = prepared.take(found)
            told = ""
        except RunError as error:
            if str(error) != told:
                told = str(error)
                tell(f"the command goes on with what it has: {told}")
        watcher.read_up_to(seen)
        return prepared.environment if different else None

    return made.run(renew)


class Prepared:
    """What the command has now: variables, and files in ``directory``."""

    def __init__(self, options: argparse.Namespace, directory: Path | None) -> None:
        self._options = options
        self._directory = directory
        self._templates = {name: _template(name) for name in options.template}
        self._owner = _owner(options.owner)
        self._given: tuple[dict[bytes, bytes], dict[str, bytes]] | None = None
        self.environment: dict[bytes, bytes] = {}

    def take(self, bundle: Bundle) -> bool:
        """Prepare what a bundle has; return whether it differs from what the command has.

        Raises:
            RunError: a value can't be handed over so, or is not there; nothing was changed then.
        """
        values = shape.chosen(bundle.values, self._options.names)
        files = dict(values) if self._options.files else {}
        for name, template in self._templates.items():
            file = shape.file_of(name)
            if file in files:
                raise RunError(f"{name}: a secret is named {file}, too; name the template otherwise")
            files[file] = shape.rendered(template, values, name)
        variables = {} if self._directory and not self._options.env else shape.environment(values)
        if (variables, files) == self._given:
            return False
        self._given = variables, files
        if self._directory:
            private.write(self._directory, files, self._options.mode, self._owner)
            variables = variables | {FILES_VARIABLE: bytes(self._directory)}
        self.environment = dict(os.environb) | variables
        return True


def _first(options: argparse.Namespace, prepared: Prepared) -> Bundle:
    """Read until all is there that was asked for, or the time is up."""
    end = time.monotonic() + options.timeout
    told = ""
    while True:
        try:
            bundle = read(options.socket)
            prepared.take(bundle)
        except NotYetError as error:
            if time.monotonic() >= end:
                raise RunError(f"{error} (waited {options.timeout:g} s)") from None
            if str(error) != told:
                told = str(error)
                tell(f"waiting: {told}")
            time.sleep(min(random.uniform(0.5, 1) * ASK_AGAIN_S, max(0.0, end - time.monotonic())))  # noqa: S311
            continue
        if bundle.pending and not options.names:
            listed = ", ".join(bundle.pending)
            tell(f"listed, but without a value: {listed}")
        return bundle


def _become(command: list[str], environment: dict[bytes, bytes]) -> None:
    """Become the command: nothing of this program stays.

    Raises:
        RunError: there is no such program, or it can't be executed.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606
    except OSError as error:
        raise supervisor.not_started(command[0], error) from None


def _template(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise RunError(f"{name}: {error.strerror}") from None


def _owner(name: str | None) -> tuple[int, int] | None:
    if not name:
        return None
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise RunError(f"--owner: there is no user {name}") from None
    return found.pw_uid, found.pw_gid


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _signal(text: str) -> signal.Signals:
    name = text.upper().removeprefix("SIG")
    found = signal.Signals(int(name)) if name.isdigit() else signal.Signals[f"SIG{name}"]
    if found in {signal.SIGKILL, signal.SIGSTOP}:
        raise ValueError(text)
    return found


def _mode(text: str) -> int:
    mode = int(text, 8)
    if not 0 <= mode <= 0o777:  # noqa: PLR2004
        raise ValueError(text)
    return mode
