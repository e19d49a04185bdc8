"""What vps-secrets-renew tells about the last renewal: a file beside agent.toml, read when somebody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core import renewal
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from pathlib import Path

    from agent.core.renewal import Record


def read(configuration: Path) -> Record | None:
    """Return the record beside a configuration; None where there is none: nothing is renewed by itself.

    One that can't be read is a problem of its own, and said as one.
    """
    try:
        with configuration.with_name(renewal.RECORD).open("rb") as file:
            content = file.read(renewal.MAX_BYTES)
        return renewal.parse(content)
    except FileNotFoundError:
        return None
    except (OSError, MalformedError):
        return renewal.Record(problem=f"{renewal.RECORD} can't be read, or is damaged: it is made anew")
