"""Prints NAME=DIGEST of all values at start and after each change, as lab/demo/application.py reads it."""

import asyncio
import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
from clients.python import vps_secrets  # run as a program, from wherever


def show(secrets: vps_secrets.Secrets) -> None:
    """Print a line."""
    values = {name: secrets[name] for name in secrets}
    raw = {name: value.encode() if isinstance(value, str) else value for name, value in values.items()}
    print(*(f"{n}={hashlib.sha256(v).hexdigest()[:12]}" for n, v in raw.items()), flush=True)  # noqa: T201


async def watch() -> None:
    """Watch with asyncio."""
    secrets = await asyncio.to_thread(vps_secrets.Secrets)
    show(secrets)
    async for _ in vps_secrets.changes(secrets):
        show(secrets)


if sys.argv[1:] == ["asyncio"]:
    asyncio.run(watch())
else:
    with vps_secrets.Secrets() as held:
        show(held)
        for _ in held.changes():
            show(held)
