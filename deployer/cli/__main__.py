"""The command ``vps-secrets-deploy``: VPSs, rotations, blueprints; never a value on the screen.

Exit status: 0 done; 1 refused, failed; 2 usage; 3 the API can't be reached; 4 no permission; 78 the
configuration is bad; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.errors import ConfigurationError, VpsSecretsError
from common.toml_table import duration
from deployer.cli import report, status, vps
from deployer.cli.client import NO, OK, ApiError, Client
from deployer.config import reader
from deployer.core.backup_format import TOO_OLD_S

if TYPE_CHECKING:
    from collections.abc import Callable

API_SOCKET: Final = Path("/run/vps-secrets-deployer/api.sock")
CONFIGURATION, INTERRUPTED = 78, 130
TIMEOUT_S: Final = 300.0
"""For an operation to end; the deadline of an emergency."""
AGAIN: Final = "The command has ended; run it again when that is mended"
"""After what goes by itself, or by a person: no command tries again."""

_ORDERS: Final = {
    "rollback": "list the former versions of these names again",
    "revoke": "take a VPS's access away: its ACLs name nobody, its user is disabled",
    "restore-access": "give a revoked VPS its access back",
    "retire": "delete a VPS with all its secrets, for ever",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale may have no character for it
    try:
        options = _parser().parse_args(arguments)
        run: Callable[[argparse.Namespace], int] = options.run
        found = run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK  # the reader has seen enough
    except KeyboardInterrupt:
        return INTERRUPTED
    except ConfigurationError as error:
        return _fail(CONFIGURATION, str(error))
    except ApiError as error:
        return _fail(error.status, str(error))
    except VpsSecretsError as error:
        passes = getattr(error, "retry", False) or getattr(error, "retriable", False)
        return _fail(NO, f"{str(error).rstrip('.')}. {AGAIN}" if passes else str(error))
    return found


def _fail(found: int, words: str) -> int:
    print(f"vps-secrets-deploy: {words}", file=sys.stderr)
    return found


def _asking(run: Callable[[Client, argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return a command that asks the API."""
    return lambda options: run(Client(options.socket), options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vps-secrets-deploy", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="JSON for programs")
    common.add_argument(
        "--socket",
        type=Path,
        default=Path(os.environ.get("VPS_SECRETS_DEPLOY_SOCKET", API_SOCKET)),
        metavar="PATH",
        help="the API's; default: %(default)s",
    )
    waits = argparse.ArgumentParser(add_help=False)
    waits.add_argument("--no-wait", action="store_true", help="only order it; it goes on by itself")
    waits.add_argument("--timeout", type=_seconds, default=TIMEOUT_S, metavar="DURATION", help="such as 5m")
    reason = argparse.ArgumentParser(add_help=False)
    reason.add_argument("--reason", required=True, help="why: one line for the history")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _about_vpses(commands, common, waits, reason)
    _about_secrets(commands, common, waits, reason)
    _about_files(commands, common, waits)
    _about_recovery(commands, waits)
    from deployer.cli import doctor  # noqa: PLC0415  # the database's library is slow

    text = "what is well on this machine and what is not, each with what to do; for monitoring"
    made = commands.add_parser(
        "doctor", parents=[common, _with_config()], help=text, description=doctor.__doc__
    )
    made.set_defaults(run=doctor.run)
    return parser


def _about_vpses(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
    waits: argparse.ArgumentParser,
    reason: argparse.ArgumentParser,
) -> None:
    text = "how the fleet is: what is late, failing, joining, expiring"
    made = commands.add_parser("status", parents=[common], help=text, description=text)
    made.set_defaults(run=_asking(status.run))
    text = "the week as one HTML page; agents' records on standard input"
    made = commands.add_parser("report", parents=[common], help=text, description=report.__doc__)
    made.set_defaults(run=_asking(report.run))
    report.add_options(made)
    group = commands.add_parser("vps", help="add, show, list, claim, revoke, retire")
    verbs = group.add_subparsers(required=True, metavar="VERB")

    made = verbs.add_parser("add", parents=[common, waits], help="wish a VPS, wait for its secrets")
    made.set_defaults(run=_asking(vps.add))
    made.add_argument("vps", metavar="VPS")
    made.add_argument("--blueprint", required=True)
    made.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    made.add_argument("--wave", type=int, default=0, help="orders for many reach wave 0 first")
    made.add_argument("--sealing", choices=("required", "off"), help="default: as deployer.toml says")

    made = verbs.add_parser("show", parents=[common], help="one VPS: its secrets, their ages, their dates")
    made.set_defaults(run=_asking(vps.show))
    made.add_argument("vps", metavar="VPS")

    made = verbs.add_parser("list", parents=[common], help="VPSs, and how each looks")
    made.set_defaults(run=_asking(vps.listing))
    made.add_argument("--look", help="late, failing, joining, expiring, revoked, retired, fine")
    made.add_argument("--label", metavar="NAME=VALUE")

    made = verbs.add_parser("claim", parents=[common], help="hand out the identity of a new VPS, once")
    made.set_defaults(run=_asking(vps.claim))
    made.add_argument("vps", metavar="VPS")
    made.add_argument("--output", required=True, type=Path, metavar="FILE", help="a new file, mode 0600")
    made.add_argument("--user", help="the user there that the application runs as: it may read the secrets")
    made.add_argument("--unit", help="the unit there that may read them")
    made.add_argument("--ca-file", metavar="PATH", help="there; default: the system's certificates")
    which = made.add_mutually_exclusive_group()
    which.add_argument("--again", action="store_true", help="another one-time password; ends the former")
    which.add_argument(
        "--keep", action="store_true", help="for a machine that was set up by hand: it reads on"
    )

    for verb in ("revoke", "restore-access", "retire"):
        made = verbs.add_parser(verb, parents=[common, waits, reason], help=_ORDERS[verb])
        made.set_defaults(run=_asking(vps.order), verb=verb)
        made.add_argument("vps", metavar="VPS")
        if verb == "retire":
            made.add_argument("--confirm", required=True, metavar="VPS", help="the id once more")


def _about_secrets(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
    waits: argparse.ArgumentParser,
    reason: argparse.ArgumentParser,
) -> None:
    text = "rotate secrets of one VPS now"
    made = commands.add_parser("rotate", parents=[common, waits, reason], help=text, description=text)
    made.set_defaults(run=_asking(vps.order), verb="rotate")
    made.add_argument("vps", metavar="VPS")
    made.add_argument("names", nargs="*", metavar="NAME", help="default: all that rotate by themselves")

    text = "rotate secrets of many VPSs, in waves"
    made = commands.add_parser("rotate-many", parents=[common, waits, reason], help=text, description=text)
    made.set_defaults(run=_asking(vps.rotate_many))
    made.add_argument("names", nargs="*", metavar="NAME")
    made.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    made.add_argument("--all", action="store_true", help="every VPS")
    made.add_argument("--wave-interval", type=_seconds, default=0.0, metavar="DURATION")

    text = _ORDERS["rollback"]
    made = commands.add_parser("rollback", parents=[common, waits, reason], help=text, description=text)
    made.set_defaults(run=_asking(vps.order), verb="rollback")
    made.add_argument("vps", metavar="VPS")
    made.add_argument("names", nargs="+", metavar="NAME")

    text = "a VPS is compromised: new values at once, the former ones deleted"
    made = commands.add_parser(
        "emergency",
        aliases=["compromised"],
        parents=[common, waits, reason],
        help=text,
        description=text,
    )
    made.set_defaults(run=_asking(vps.emergency), verb="emergency")
    made.add_argument("vps", metavar="VPS")
    made.add_argument(
        "--new-identity",
        action="store_true",
        help="its machine was in other hands: shut it out until it has another identity",
    )

    text = "give an external value, from standard input, byte for byte"
    made = commands.add_parser("set", parents=[common, waits], help=text, description=text)
    made.set_defaults(run=_asking(vps.give))
    made.add_argument("vps", metavar="VPS")
    made.add_argument("name", metavar="NAME")
    made.add_argument("--strip-newline", action="store_true", help="without the line feed at its end")

    text = "show an operation, or wait for its end"
    made = commands.add_parser("operation", parents=[common, waits], help=text, description=text)
    made.set_defaults(run=_asking(vps.operation))
    made.add_argument("operation", metavar="ID")


def _about_files(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
    waits: argparse.ArgumentParser,
) -> None:
    from deployer.cli import importing, serve  # noqa: PLC0415  # the database's library is slow

    config = _with_config()
    _about_blueprints(commands, config)
    _about_cloud(commands, config)

    text = "make the values of a .env file the external secrets of a VPS"
    made = commands.add_parser("import", parents=[common, waits], help=text, description=importing.__doc__)
    made.set_defaults(run=_asking(importing.run))
    made.add_argument("--env-file", required=True, type=Path, metavar="FILE")
    made.add_argument("--vps", metavar="VPS")
    made.add_argument("--blueprint-out", type=Path, metavar="FILE", help="write a blueprint for it instead")
    made.add_argument(
        "--digests", type=Path, metavar="FILE", help="write keyed digests, to check the VPS with"
    )

    text = "run api, worker and registrar as children of this command"
    made = commands.add_parser("serve", parents=[config], help=text, description=serve.__doc__)
    made.set_defaults(run=lambda options: serve.serve(options.config))


def _about_blueprints(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], config: argparse.ArgumentParser
) -> None:
    from deployer.cli import blueprint, postgresql_sql  # noqa: PLC0415  # the database's library is slow

    text = "check, plan or apply the blueprints"
    group = commands.add_parser("blueprint", help=text, description=text)
    verbs = group.add_subparsers(required=True, metavar="VERB")
    for verb, run, about in (
        ("check", blueprint.check, "say whether the files are right"),
        ("plan", blueprint.plan, "say what applying would do"),
        ("apply", blueprint.apply, "apply them"),
    ):
        made = verbs.add_parser(verb, parents=[config], help=about, description=about)
        made.set_defaults(run=run)
        made.add_argument("--json", action="store_true", help="JSON for programs")
        made.add_argument("--folder", type=Path, metavar="PATH", help="default: that of deployer.toml")
        made.add_argument("--remove", action="store_true", help="names that are gone may be deleted")

    text = "print the SQL that an administrator of PostgreSQL runs once, before the first VPS"
    made = verbs.add_parser("sql", parents=[config], help=text, description=postgresql_sql.__doc__)
    made.set_defaults(run=postgresql_sql.run)
    made.add_argument("blueprint", metavar="BLUEPRINT")
    made.add_argument("--folder", type=Path, metavar="PATH", help="default: that of deployer.toml")
    made.add_argument("--secret", metavar="NAME", help="where there is more than one of the kind postgresql")
    made.add_argument("--vps", action="append", default=[], metavar="VPS", help="may be repeated")
    made.add_argument(
        "--owner",
        metavar="ROLE",
        help="owns what the application makes; may have {vps} in it; default: {vps}_owner or BLUEPRINT_owner",
    )


def _about_cloud(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], config: argparse.ArgumentParser
) -> None:
    from deployer.cli import cloud  # noqa: PLC0415  # the database's library is slow

    text = "plan, apply, verify or export what cloud.toml says"
    group = commands.add_parser("cloud", help=text, description=cloud.__doc__)
    verbs = group.add_subparsers(required=True, metavar="VERB")
    for verb, run, about in (
        ("plan", cloud.plan, "say what differs"),
        ("apply", cloud.apply, "make what is missing"),
        ("credential", cloud.credential, "make what a program logs in with"),
        ("verify", cloud.verify_cloud, "try every promise with throw-away objects"),
        ("export", cloud.terraform, "print it as Terraform, which holds no secret"),
    ):
        made = verbs.add_parser(verb, parents=[config], help=about, description=about)
        made.set_defaults(run=run)
        made.add_argument("--json", action="store_true", help="JSON for programs")
        made.add_argument("--file", type=Path, metavar="PATH", help="default: that of deployer.toml")
        made.add_argument(
            "--admin-token", type=Path, metavar="FILE", help="an administrator's token; - is standard input"
        )
        if verb == "credential":
            made.add_argument("account", choices=cloud.ACCOUNTS)
            does = made.add_mutually_exclusive_group(required=True)
            does.add_argument("--output", type=Path, metavar="FILE", help="a new file")
            text = "delete what deployer.toml does not name"
            does.add_argument("--end-former", action="store_true", help=text)
            made.add_argument(
                "--expires", type=_lasts, default="365d", metavar="DURATION", help="or never; default: 365d"
            )


def _with_config() -> argparse.ArgumentParser:
    """Return the option that names deployer.toml, for other parsers."""
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument("--config", type=Path, default=reader.DEFAULT_PATH, metavar="PATH")
    return config


def _about_recovery(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], waits: argparse.ArgumentParser
) -> None:
    from deployer.cli import backup, drill, recovery  # noqa: PLC0415  # the database's library is slow

    config = _with_config()
    config.add_argument("--json", action="store_true", help="JSON for programs")

    text = "write backups, and prove that they can be read back"
    group = commands.add_parser("backup", help=text, description=backup.__doc__)
    verbs = group.add_subparsers(required=True, metavar="VERB")
    text = "write one to each place of deployer.toml"
    made = verbs.add_parser("run", parents=[config], help=text, description=text)
    made.set_defaults(run=backup.run)
    made.add_argument("--if-due", action="store_true", help="only where the last good one is old enough")
    text = "read the newest of each place back, and compare it with what was written"
    made = verbs.add_parser("prove", parents=[config], help=text, description=text)
    made.set_defaults(run=backup.prove)

    text = "a lost database: want again what a backup says"
    made = commands.add_parser("restore", parents=[config], help=text, description=recovery.__doc__)
    made.set_defaults(run=recovery.restore)
    made.add_argument("file", type=Path, metavar="FILE")
    made.add_argument("--identity", required=True, type=Path, metavar="FILE", help="the offline key of age")
    made.add_argument(
        "--signed-by",
        required=True,
        metavar="KEY",
        help="as backup run has shown it; --signed-by=KEY, since one may begin with a dash",
    )
    made.add_argument("--max-age", type=_seconds, default=TOO_OLD_S, metavar="DURATION", help="default: 7d")

    text = "a lost database without a backup: want what Barbican lists"
    made = commands.add_parser("adopt", parents=[config], help=text, description=recovery.__doc__)
    made.set_defaults(run=recovery.adopt)
    made.add_argument("vps", nargs="*", metavar="VPS")
    made.add_argument("--all", action="store_true", help="every container whose name is a VPS's id")
    made.add_argument("--blueprint", required=True, metavar="NAME")

    text = "have the worker look at VPSs now, and mend what Barbican lost"
    made = commands.add_parser("look", parents=[config, waits], help=text, description=recovery.__doc__)
    made.set_defaults(run=recovery.look)
    made.add_argument("vps", nargs="*", metavar="VPS")
    made.add_argument("--all", action="store_true", help="every VPS")

    text = "play recoveries on a VPS of its own, and say how long they took"
    made = commands.add_parser("drill", parents=[config], help=text, description=drill.__doc__)
    made.set_defaults(run=drill.run)
    made.add_argument("--vps", default="vps-drill", metavar="VPS", help="one that is not there; %(default)s")
    made.add_argument("--blueprint", default="drill", metavar="NAME", help="default: %(default)s")
    made.add_argument("--most", type=_seconds, default=TIMEOUT_S, metavar="DURATION", help="default: 5m")
    made.add_argument("--timeout", type=_seconds, default=TIMEOUT_S, metavar="DURATION", help="of a step")


def _seconds(text: str) -> float:
    found = duration(text)
    if found is None:
        raise argparse.ArgumentTypeError("expected a duration such as 30s, 5m or 2h")
    return found


def _lasts(text: str) -> float | None:
    return None if text == "never" else _seconds(text)


if __name__ == "__main__":
    sys.exit(main())
