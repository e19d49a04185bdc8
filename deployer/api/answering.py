"""What an answer is, before it is written: JSON, a page, a text. No type here has a place for a value."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deployer.api.content import Content
    from deployer.api.problems import RequestError

COMMON: Final = {
    "Cache-Control": "no-store",
    "Server": "vps-secrets-deployer",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PAGE: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in JSON."""

    content: Mapping[str, Content]
    status: int = 200
    location: str | None = None


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """An answer in another text: a page, a style sheet, metrics."""

    text: str
    content_type: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def response_of(answer: Answer | TextAnswer) -> web.Response:
    """Return an answer as it is sent."""
    if isinstance(answer, TextAnswer):
        return web.Response(
            text=answer.text,
            status=answer.status,
            headers={**COMMON, **answer.headers, "Content-Type": answer.content_type},
        )
    headers = {**COMMON, **({"Location": answer.location} if answer.location else {})}
    body = json.dumps(answer.content, ensure_ascii=False, allow_nan=False).encode()
    return web.Response(body=body, status=answer.status, content_type="application/json", headers=headers)


def problem_of(error: RequestError) -> web.Response:
    """Return a problem as it is sent."""
    headers = {**COMMON}
    if error.allow:
        headers["Allow"] = error.allow
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    body = json.dumps(error.content()).encode()
    return web.Response(
        body=body, status=error.problem.status, content_type="application/problem+json", headers=headers
    )
