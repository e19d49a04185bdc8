"""Whether a credential of backups puts, and does nothing else: tried, with one small object of its own name.

What it put it can't delete: each run leaves one more version of ``verify`` for the owner to prune.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from deployer.cloud.calls import call
from deployer.cloud.verify.report import Cell, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystoneauth1.session import Session

OBJECT: Final = "verify"
REFUSED: Final = (401, 403)
ANY_STATUS: Final = range(100, 600)
PUT: Final = "put a backup"
_TRIED: Final = (
    (PUT, "PUT", f"/{OBJECT}", (201,)),
    ("read a backup", "GET", f"/{OBJECT}", REFUSED),
    ("list backups", "GET", "?limit=1", REFUSED),
    ("change a backup's facts", "POST", f"/{OBJECT}", REFUSED),
    ("change who may", "POST", "", REFUSED),
    ("delete a backup", "DELETE", f"/{OBJECT}", REFUSED),
)


def cells(name: str, session: Session, url: str) -> Iterator[Cell]:
    """Try everything with one credential; ``url`` is the container's."""
    for operation, method, path, expected in _TRIED:
        request: dict[str, Any] = {"data": secrets.token_bytes(16)} if method == "PUT" else {}
        step = f"try to {operation}"
        answer = call(session, method, url.rstrip("/") + path, step, ANY_STATUS, **request)
        yield Cell(operation, f"backup {name}", answer.status, expected)


def findings(found: tuple[Cell, ...]) -> Iterator[Finding]:
    """Return what the wrong cells mean."""
    for cell in found:
        if cell.good:
            continue
        if cell.operation == PUT:
            yield Finding(
                "backup-is-refused",
                f"{cell.actor} can't put (HTTP {cell.status}), so no backup comes there: cloud apply, then "
                "cloud credential backup",
            )
        else:
            yield Finding(
                "backup-does-more",
                f"{cell.actor} may {cell.operation} (HTTP {cell.status}), and so may whoever takes over the "
                "deployer: make its credential by cloud credential backup; cloud plan looks at the container",
            )
