"""The command ``vps-secrets``: what operators and applications may know, and never a value.

Exit status: 0 yes, done; 1 no, not ready, failed; 2 usage; 3 the agent can't be reached; 4 no permission;
130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from agent import __version__
from agent.cli import show
from agent.cli.answer import AnswerError, clean
from agent.cli.http import ANSWER_S, Answer, PermissionDeniedError, UnreachableError, ask
from common.durations import seconds
from common.places import APP_SOCKET, CONTROL_SOCKET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final

OK, NO, USAGE, UNREACHABLE, PERMISSION, INTERRUPTED = 0, 1, 2, 3, 4, 130
WATCH_S: Final = 60
ASK_AGAIN_S: Final = 1.0
ROOT_HAS_NO_GRANT: Final = (
    "root has no grant: an administrator reads nothing unless a grant names root; "
    "ask as the application's user: runuser -u USER -- vps-secrets list"
)
REFRESH_S: Final = 70.0
_TOO_MANY: Final = 429


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status, whatever the agent answers and wherever the output goes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale may have no character for it
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        if sys.stdout is not None:  # None where it was closed before the start
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return OK  # the reader has seen enough
    except OSError as error:
        _discard_output()
        return _fail(NO, f"the output can't be written: {error.strerror}")
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _discard_output() -> None:
    """Let the interpreter's own flush at its end go nowhere instead of failing again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(arguments: list[str]) -> int:
    run: Callable[[argparse.Namespace], int] = _status
    try:
        options = _parser(arguments).parse_args(arguments)
        run = options.run
        return run(options)
    except SystemExit as error:  # of argparse, after its own words, or of _good
        return error.code if isinstance(error.code, int) else OK
    except UnreachableError as error:
        return _fail(UNREACHABLE, f"{error}; is the agent running? systemctl status vps-secrets-agent")
    except PermissionDeniedError as error:
        return _fail(PERMISSION, f"{error}; {_who_may(run)}")
    except AnswerError as error:
        return _fail(NO, f"{error}; is another program listening there?")


def _who_may(run: Callable[[argparse.Namespace], int]) -> str:
    """Return what a user who is refused can do."""
    if run not in {_list, _wait, _watch}:
        return "root and vps-secrets-admin may use the control socket"
    if not os.geteuid():
        return ROOT_HAS_NO_GRANT
    return (
        "be the application's user, or in the group that owns the socket; the [[grant]] tables of agent.toml "
        "say who may read what, and as root: vps-secrets explain NAME --user USER"
    )


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vps-secrets", description=__doc__, formatter_class=_Plain)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="JSON for programs")
    common.add_argument("--socket", default=os.environ.get("VPS_SECRETS_SOCKET", APP_SOCKET), metavar="PATH")
    common.add_argument(
        "--control-socket",
        default=os.environ.get("VPS_SECRETS_CONTROL_SOCKET", CONTROL_SOCKET),
        metavar="PATH",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str, timeout: float | None = ANSWER_S
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, parents=[common], help=text, description=text)
        made.set_defaults(run=run)
        if timeout is not None:
            how_long = "how long all of it may take; default: %(default)g"
            made.add_argument("--timeout", type=seconds, default=timeout, metavar="SECONDS", help=how_long)
        return made

    status = command("status", _status, "how the agent is (control socket)")
    only = "only whether the configuration file is in force; 1 where a reload was refused"
    status.add_argument("--configuration", action="store_true", help=only)
    command("list", _list, "names and versions that this user may read")
    command("wait", _wait, "wait until the agent is ready", 60.0)
    command("watch", _watch, "print names and versions as they change, until Ctrl-C", None)
    command("refresh", _refresh, "have the agent read Barbican now (control socket)", REFRESH_S)
    explain = command("explain", _explain, "whether a user may read a secret, and why (control socket)")
    explain.add_argument("name", metavar="NAME")
    explain.add_argument("--user", default=str(os.getuid()), help="name or uid; default: this user")
    explain.add_argument("--unit", help="the systemd unit of the caller")
    text = "the agent's metrics, for Prometheus (control socket)"
    if "metrics" in arguments:  # as below: no other command needs its imports
        from agent.cli import metrics  # noqa: PLC0415

        metrics.add_options(command("metrics", metrics.run, text))
    else:
        commands.add_parser("metrics", help=text)
    text = "what is right and wrong here, from the configuration to what the account may do (root)"
    if "doctor" in arguments:  # as below
        from agent.cli import doctor  # noqa: PLC0415

        doctor.add_options(command("doctor", doctor.run, text))
    else:
        commands.add_parser("doctor", help=text)
    text = "start a command with its secrets, as environment variables or files"
    if "run" in arguments:  # as below: no other command needs its imports
        from agent.run import main as start  # noqa: PLC0415

        made = commands.add_parser("run", help=text, description=text)
        made.add_argument(
            "--socket", default=os.environ.get("VPS_SECRETS_SOCKET", APP_SOCKET), metavar="PATH"
        )
        made.set_defaults(run=start.run)
        start.add_options(made)
    else:
        commands.add_parser("run", help=text)
    _add_setup(commands, arguments)
    _add_join(commands, arguments)
    return parser


def _add_setup(commands: Any, arguments: list[str]) -> None:
    text = "set this machine up (root)"
    if "setup" in arguments:  # its imports would slow every other command
        from agent.cli import setup  # noqa: PLC0415

        made = commands.add_parser("setup", help=text, description=text)
        made.set_defaults(run=setup.run, control_socket=CONTROL_SOCKET)
        setup.add_options(made)
    else:
        commands.add_parser("setup", help=text)


def _add_join(commands: Any, arguments: list[str]) -> None:
    text = "have this machine take over the identity that the deployer handed out (root)"
    if "join" in arguments:  # its libraries would slow every other command
        from agent.cli import join  # noqa: PLC0415

        made = commands.add_parser("join", help=text, description=text)
        made.set_defaults(run=join.run, control_socket=CONTROL_SOCKET)
        join.add_options(made)
    else:
        commands.add_parser("join", help=text)


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keep the exit status' lines as they are."""


def _status(options: argparse.Namespace) -> int:
    content = _good(ask(options.control_socket, "GET", "/v1/status", options.timeout))
    if options.configuration:
        _print(options, content, show.configuration)
        return NO if content.get("configurationError") else OK
    _print(options, content, show.status)
    return OK if content.get("state") == "ready" else NO


def _list(options: argparse.Namespace) -> int:
    content = _good(ask(options.socket, "GET", "/v1/secrets", options.timeout))
    if not content.get("secrets"):
        reason = "the agent holds no secret that this user may read" if os.geteuid() else ROOT_HAS_NO_GRANT
        print(f"vps-secrets: {reason}", file=sys.stderr, flush=True)
    _print(options, content, lambda found: show.secrets(found.get("secrets") or ()))
    return OK


def _wait(options: argparse.Namespace) -> int:
    """Ask until ready. An agent that does not answer yet may be starting."""
    end = time.monotonic() + options.timeout
    told = ""
    left = max(options.timeout, ASK_AGAIN_S)  # one question has a chance, also with --timeout 0
    while True:
        try:
            answer = ask(options.socket, "GET", "/v1/health/ready", min(left, ANSWER_S))
        except UnreachableError as error:
            status, reason = UNREACHABLE, str(error)
        else:
            if answer.status == 200:  # noqa: PLR2004  # RFC 9110
                _print(options, answer.content, _ready)
                return OK
            _allowed(answer)
            status, reason = NO, _reason(answer)
        if reason != told:
            told = reason
            print(f"vps-secrets: not ready yet: {reason}", file=sys.stderr, flush=True)
        time.sleep(min(ASK_AGAIN_S, max(0.0, end - time.monotonic())))
        left = end - time.monotonic()
        if left <= 0:
            return _fail(status, f"not ready after {options.timeout:g} s: {reason}")


def _ready(content: dict[str, Any]) -> Iterable[str]:
    yield f"ready: generation {content.get('generation')}"
    yield from _pending(content)


def _pending(content: dict[str, Any]) -> Iterable[str]:
    if content.get("pending"):
        yield f"listed, but without a value: {', '.join(content['pending'])}"


def _watch(options: argparse.Namespace) -> int:
    """Print every change; the first lines are what there is now. An agent that goes away is waited for."""
    known: dict[str, str] = {}
    generation = 0  # of what is known
    away = started = False
    while True:
        try:
            if started:
                _wait_for_news(options, generation)
            content = _good(ask(options.socket, "GET", "/v1/secrets"))
        except UnreachableError as error:
            if not started:
                raise
            if not away:
                print(f"vps-secrets: {error}; trying again", file=sys.stderr, flush=True)
            away = True
            time.sleep(ASK_AGAIN_S)
            continue
        listed = content.get("secrets") or ()
        former, known = known, {str(one.get("name")): str(one.get("version")) for one in listed}
        generation = int(content.get("generation") or 0)
        _changes(options, known, former if started else dict.fromkeys(known))
        if started and known == former:
            time.sleep(ASK_AGAIN_S)  # whoever answers at once without a change is not asked without end
        started, away = True, False


def _wait_for_news(options: argparse.Namespace, generation: int) -> None:
    """Wait until something has changed after a generation, in whatever run of the agent, or time is up."""
    target = f"/v1/watch?after={generation}&timeout={WATCH_S}"
    answer = ask(options.socket, "GET", target, WATCH_S + ANSWER_S)
    if answer.status != 204:  # noqa: PLR2004  # RFC 9110
        _good(answer)


def _changes(options: argparse.Namespace, known: dict[str, str], former: dict[str, Any]) -> None:
    for name in sorted(known.keys() | former.keys()):
        version = known.get(name)
        if version == former.get(name, "none"):
            continue
        if options.json:
            print(json.dumps({"name": name, "version": version}), flush=True)
        else:
            print(f"{name} {version or 'gone'}", flush=True)


def _refresh(options: argparse.Namespace) -> int:
    end = time.monotonic() + options.timeout
    while True:
        answer = ask(options.control_socket, "POST", "/v1/refresh", end - time.monotonic())
        if answer.status != _TOO_MANY or end - time.monotonic() <= answer.retry_after:
            break
        time.sleep(answer.retry_after)
    _allowed(answer)
    if answer.content.get("failure"):
        _print(options, answer.content, _failed)
        return NO
    content = _good(answer)
    _print(options, content, _refreshed)
    return NO if content.get("notReady") else OK


def _failed(content: dict[str, Any]) -> Iterable[str]:
    yield "the reading failed; what was held is still served"
    yield from show.failure(content["failure"])
    yield f"next attempt: in {show.span(content.get('nextAttemptIn'))}"


def _refreshed(content: dict[str, Any]) -> Iterable[str]:
    changed = ", ".join(content.get("changed") or ()) or "nothing"
    yield f"generation {content.get('generation')}: {changed} changed"
    if content.get("notReady"):
        yield f"not ready: {content['notReady']}"
    yield from _pending(content)


def _explain(options: argparse.Namespace) -> int:
    target = f"/v1/explain?user={_parameter(options.user)}&name={_parameter(options.name)}"
    if options.unit:
        target += f"&unit={_parameter(options.unit)}"
    content = _good(ask(options.control_socket, "GET", target, options.timeout))
    _print(options, content, _explained)
    return OK if content.get("allowed") else NO


def _explained(content: dict[str, Any]) -> Iterable[str]:
    yield "allowed" if content.get("allowed") else "denied"
    yield from (f"  {line}" for line in content.get("lines") or ())


def _parameter(text: str) -> str:
    """Return a query parameter that can't become two: the agent decodes nothing and refuses the rest."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-@:") else "?" for c in text)


def _good(answer: Answer) -> dict[str, Any]:
    """Return the content of a good answer; tell any other and end."""
    _allowed(answer)
    if answer.status != 200:  # noqa: PLR2004  # RFC 9110
        raise SystemExit(_fail(NO, _reason(answer)))
    return answer.content


def _reason(answer: Answer) -> str:
    """Return what a refusal says of itself."""
    words = [answer.content[key] for key in ("title", "detail") if answer.content.get(key)]
    return "; ".join(words) or f"the agent answered HTTP {answer.status}"


def _allowed(answer: Answer) -> None:
    if answer.status == 403:  # noqa: PLR2004  # RFC 9110
        raise PermissionDeniedError(_reason(answer))


def _print(
    options: argparse.Namespace, content: dict[str, Any], text: Callable[[dict[str, Any]], Iterable[str]]
) -> None:
    if options.json:
        print(json.dumps(content), flush=True)
    else:
        print(*text(content), sep="\n", flush=True)


def _fail(status: int, text: str) -> int:
    try:
        print(f"vps-secrets: {clean(text)}", file=sys.stderr, flush=True)
    except OSError:  # standard error is closed or full too: the status remains
        _discard_output()
    return status


if __name__ == "__main__":
    sys.exit(main())
