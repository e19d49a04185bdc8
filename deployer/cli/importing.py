"""``import``: the values of a ``.env`` file become the external secrets of a VPS; no line of it is shown.

With ``--blueprint-out`` it writes the blueprint that the file needs. ``--digests`` writes keyed digests with
which the VPS can check what it got (docs/examples/check-digests.py).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sys
from typing import TYPE_CHECKING, Any, Final

from common.limits import MAX_PAYLOAD
from deployer.cli import dotenv, screen
from deployer.cli.client import NO, OK, USAGE, ApiError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from deployer.cli.client import Client

PRIVATE: Final = 0o600
REMIND: Final = "180d"


def run(client: Client, options: argparse.Namespace) -> int:
    """Read the file, then write a blueprint for it, or give its values to a VPS."""
    found = _read(options.env_file)
    for warning in found.warnings:
        print(f"{options.env_file}: {warning}", file=sys.stderr)
    mistakes = [*found.mistakes, *_too_large(found.values)]
    if mistakes or not found.values:
        for mistake in mistakes or ["it has no value"]:
            print(f"{options.env_file}: {mistake}", file=sys.stderr)
        return NO
    if options.blueprint_out is not None:
        _write_new(options.blueprint_out, _blueprint(found.values))
        print(f"{options.blueprint_out}: {len(found.values)} secrets, each given by a person")
        return OK
    if options.vps is None:
        raise ApiError("say --vps ID, or --blueprint-out FILE", USAGE)
    return _give(client, options, found.values)


def _give(client: Client, options: argparse.Namespace, values: Mapping[str, bytes]) -> int:
    """Give every value; what can't be given is said before the first one is."""
    known = {one["name"]: one["kind"] for one in client.get("vps", options.vps)["secrets"]}
    wrong = [
        f"{name}: the blueprint of {options.vps} "
        + ("has no such name" if name not in known else "makes it itself")
        for name in sorted(values)
        if known.get(name) != "external"
    ]
    if wrong:
        for line in wrong:
            print(line, file=sys.stderr)
        print("nothing was stored", file=sys.stderr)
        return NO
    if options.digests is not None:
        _write_new(options.digests, json.dumps(_digests(values), indent=1) + "\n")
    done: list[dict[str, Any]] = []
    for name, value in sorted(values.items()):
        answer = client.give("vps", options.vps, "secrets", name, value=value)
        done.append(screen.follow(client, answer, options.timeout))
        if not options.json:
            print(f"{name}: stored")
    if options.json:
        screen.document(done)
    return OK


def _digests(values: Mapping[str, bytes]) -> dict[str, object]:
    """Return a digest for each name under a key of this run: worth nothing where the values are long."""
    key = secrets.token_bytes(32)
    return {
        "key": key.hex(),
        "digests": {name: hmac.new(key, value, hashlib.sha256).hexdigest() for name, value in values.items()},
    }


def _blueprint(values: Mapping[str, bytes]) -> str:
    head = "# Made by vps-secrets-deploy import. What can be made anew may become another kind.\n"
    return head + "".join(
        f'\n["{name}"]\nkind = "external"\nrotate = "{REMIND}"\n' for name in sorted(values)
    )


def _too_large(values: Mapping[str, bytes]) -> list[str]:
    return [f"{name} has more than {MAX_PAYLOAD} bytes" for name, v in values.items() if len(v) > MAX_PAYLOAD]


def _read(path: Path) -> dotenv.Dotenv:
    try:
        return dotenv.parse(path.read_bytes())
    except OSError as error:
        raise ApiError(f"{path}: {error.strerror}", NO) from None


def _write_new(path: Path, text: str) -> None:
    """Write a file that must not be there yet, for its owner alone."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE)
    except OSError as error:
        raise ApiError(f"{path}: {error.strerror}", NO) from None
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
