"""Commands about VPSs: they ask the API, and show or follow what it answers."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from common.limits import MAX_PAYLOAD
from deployer.cli import screen
from deployer.cli.client import NO, OK, USAGE, ApiError

if TYPE_CHECKING:
    import argparse

    from deployer.cli.client import Client

PAGE: Final = 100
PRIVATE: Final = 0o600


def add(client: Client, options: argparse.Namespace) -> int:
    """Wish a VPS, and wait until its secrets are there."""
    labels = dict(_label(text) for text in options.label)
    body = {"blueprint": options.blueprint, "labels": labels, "wave": options.wave}
    if options.sealing is not None:
        body["sealing"] = options.sealing
    return _ordered(client, options, client.put("vps", options.vps, body=body))


def show(client: Client, options: argparse.Namespace) -> int:
    """Show one VPS: its secrets with their ages and dates, never a value."""
    found = client.get("vps", options.vps)
    if options.json:
        screen.document(found)
        return OK
    vps, now = found["vps"], time.time()
    print(
        f"{vps['id']}: {vps['look']} ({vps['state']}), blueprint {vps['blueprint']}, wanted {vps['wanted']}"
    )
    if vps["sealing"] == "off":
        print("its values are not sealed: whoever operates Barbican could read them")
    print(f"container {vps['container'] or '-'}, looked at {screen.ago(vps['lookedAt'], now)}")
    if vps["servedAt"] is None:
        print("its agent has never said what it serves: has it joined, with acknowledge = true?")
    else:
        print(f"its agent said that it serves this {screen.ago(vps['servedAt'], now)}")
    if vps["lastError"]:
        print(f"last failure: {vps['lastError']} ({vps['failures']} in a row)")
    screen.table(
        ("NAME", "KIND", "GROUP", "STATE", "MADE", "DUE"),
        (
            (
                *(one["name"], one["kind"], one["group"], "lost" if one["lost"] else one["state"]),
                *(screen.ago(one["createdAt"], now), screen.until(one["due"], now)),
            )
            for one in found["secrets"]
        ),
    )
    for one in found["secrets"]:
        if one["remark"]:
            print(f"{one['name']}: {one['remark']}")
    return OK


def listing(client: Client, options: argparse.Namespace) -> int:
    """List VPSs, those that need somebody first."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = client.get("vps", after=after, limit=PAGE, state=options.look, label=options.label)
        found += page["items"]
        after = page["next"]
        if after is None:
            break
    if options.json:
        screen.document(found)
        return OK
    now = time.time()
    screen.table(
        ("VPS", "LOOK", "STATE", "BLUEPRINT", "NEXT DUE", "SERVED", "LAST FAILURE"),
        (
            (
                *(one["id"], one["look"], one["state"], one["blueprint"], screen.until(one["nextDue"], now)),
                *(screen.ago(one["servedAt"], now), one["lastError"] or "-"),
            )
            for one in found
        ),
    )
    return OK


def claim(client: Client, options: argparse.Namespace) -> int:
    """Write the user data of a new VPS into a new file, once; with --json what is in it."""
    try:
        descriptor = os.open(options.output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE)
    except OSError as error:
        print(f"vps-secrets-deploy: {options.output}: {error.strerror}; nothing was claimed", file=sys.stderr)
        return NO
    with os.fdopen(descriptor, "w") as file:
        try:
            found = client.post("vps", options.vps, "claim", query=_claim_query(options))
            file.write(json.dumps(found, indent=1) if options.json or options.keep else found["userData"])
        except BaseException:
            Path(options.output).unlink()
            raise
    there = "run there: vps-secrets join --keep --claim FILE, and delete it here"
    anew = "give it to the new machine as its user data, then delete it"
    words = there if options.keep else anew
    print(f"{options.output} has the one-time password of {options.vps}: {words}")
    return OK


def _claim_query(options: argparse.Namespace) -> dict[str, str]:
    given = {"user": options.user, "unit": options.unit, "caFile": options.ca_file}
    given |= {name: "true" for name in ("again", "keep") if getattr(options, name)}
    return {name: text for name, text in given.items() if text is not None}


def order(client: Client, options: argparse.Namespace) -> int:
    """Rotate, roll back, revoke, give back, retire."""
    body: dict[str, object] = {"reason": options.reason}
    if getattr(options, "names", None):
        body["names"] = options.names
    if options.verb == "retire":
        body["confirm"] = options.confirm
    return _ordered(client, options, client.post("vps", options.vps, options.verb, body=body))


def emergency(client: Client, options: argparse.Namespace) -> int:
    """Replace all of a compromised VPS; with another identity it is shut out first, and a person goes on.

    What that person has to do is told at once, and not only when all the rest is done.
    """
    reason = {"reason": options.reason}
    body = reason | ({"identity": "new"} if options.new_identity else {})
    answer = client.post("vps", options.vps, options.verb, body=body)
    if not options.json:
        for words in answer["detail"]["toDo"]:
            print(f"to do: {words}")
    if not options.new_identity:
        return _ordered(client, options, answer)
    # it ends when the new machine serves; what is waited for here is that the former one is shut out
    shut_out = _ordered(client, options, client.post("vps", options.vps, "revoke", body=reason))
    if not options.json:
        print(f"its new values are made when its new machine has joined (operation {answer['id']})")
    return shut_out


def rotate_many(client: Client, options: argparse.Namespace) -> int:
    """Rotate on all VPSs, or on those with these labels, in waves."""
    body: dict[str, object] = {"reason": options.reason, "waveInterval": options.wave_interval}
    if options.names:
        body["names"] = options.names
    if options.label:
        body["labels"] = dict(_label(text) for text in options.label)
    elif options.all:
        body["all"] = True
    else:
        raise ApiError("say --all, or which by --label NAME=VALUE", USAGE)
    return _ordered(client, options, client.post("rotate", body=body))


def give(client: Client, options: argparse.Namespace) -> int:
    """Give an external value, from standard input, byte for byte."""
    if sys.stdin.isatty():
        print("the value ends with Ctrl-D; what is typed is not shown on other screens", file=sys.stderr)
    value = bytearray(sys.stdin.buffer.read(MAX_PAYLOAD + 1))
    try:
        if not value or len(value) > MAX_PAYLOAD:
            raise ApiError(f"a value has 1 to {MAX_PAYLOAD} bytes; nothing was stored", USAGE)
        if options.strip_newline and value.endswith(b"\n"):
            del value[-1:]
        answer = client.give("vps", options.vps, "secrets", options.name, value=value)
    finally:
        value[:] = bytes(len(value))
    return _ordered(client, options, answer)


def operation(client: Client, options: argparse.Namespace) -> int:
    """Show an operation, or wait for its end."""
    return _ordered(client, options, client.get("operations", options.operation))


def _ordered(client: Client, options: argparse.Namespace, answer: dict[str, Any]) -> int:
    """Follow an operation to its end, unless nobody wants to wait."""
    found = answer.get("operation", answer)
    if not isinstance(found, dict) or "state" not in found:  # it is as wished already
        if options.json:
            screen.document(answer)
        else:
            print("nothing to do: it is so already")
        return OK
    if not options.no_wait:
        found = screen.follow(client, found, options.timeout)
    if options.json:
        screen.document(found)
    else:
        print(f"{found['kind']} {found['target']}: {found['state']} (operation {found['id']})")
        if "toDo" not in found["detail"]:  # else it was told before
            for words in found["detail"].get("byHand", ()):
                print(f"by hand: {words}")
    return OK


def _label(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise ApiError(f"a label is NAME=VALUE, not {text!r}", USAGE)
    return name, value
