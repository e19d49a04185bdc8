"""Takes each request through the same checks in the same order, and answers it.

Host, caller, path, origin, role, parameters, body: what fails first is the answer, and nothing behind it has
run. A refusal is told to the caller in our own words, and an unknown error not at all; the journal gets the
operation's name and the place in the program, never a message that may quote a request.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from common.limits import MAX_PAYLOAD
from deployer.api import callers, problems
from deployer.api.answering import COMMON, problem_of, response_of
from deployer.api.callers import Caller
from deployer.api.connection import Connection, connection_of
from deployer.api.handlers import Ask
from deployer.api.problems import RequestError
from deployer.database.errors import DatabaseError, RefusedValueError

if TYPE_CHECKING:
    from deployer.api.callers import Roles
    from deployer.api.contract import Operation, Routes
    from deployer.api.dashboard.pages import Pages
    from deployer.api.events import Events
    from deployer.api.handlers import Handlers
    from deployer.api.metrics import Metrics
    from deployer.config.model import Api

KEY: Final = "Idempotency-Key"
LAST_EVENT: Final = "Last-Event-ID"
OCTETS: Final = "application/octet-stream"
_CROSS: Final = frozenset({"cross-site", "same-site"})
_FORMS: Final = frozenset({"", "application/json"})
_MOST_PATH: Final = 2048
_MOST_FIELDS: Final = 100
_log = logging.getLogger(__name__)


class Server:
    """Answers one request at a time for each connection."""

    def __init__(
        self,
        settings: Api,
        roles: Roles,
        routes: Routes,
        *,
        handlers: Handlers,
        pages: Pages,
        events: Events,
        metrics: Metrics,
    ) -> None:
        self._settings: Final = settings
        self._roles: Final = roles
        self._routes: Final = routes
        self._handlers: Final = handlers
        self._pages: Final = pages
        self._events: Final = events
        self._metrics: Final = metrics

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer, whatever happens."""
        connection_of(request).arrived()
        doing = _Doing()
        try:
            response = await self._answer(request, doing)
        except RequestError as error:
            response = self._refusal(doing, error)
        except RefusedValueError as error:  # it would be refused again: it is no failure of the database
            response = self._refusal(doing, RequestError(problems.BAD_PARAMETER, str(error)))
        except DatabaseError as error:
            _log.warning("%s: refused with 503: %s", doing.operation, error)
            again = "with the same Idempotency-Key, " if doing.changes else ""
            words = f"{error} Nothing was changed. Ask again {again}when that is mended."
            response = self._refusal(doing, RequestError(problems.UNAVAILABLE, words, retry_after=5))
        except ConnectionError:
            raise  # the caller left
        except Exception as error:  # noqa: BLE001  # the last one: nothing of it may reach a caller or the journal
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} at {place.filename}:{place.lineno}"
            _log.error("%s: failed: %s; this is a defect, please report it", doing.operation, where)
            response = self._refusal(doing, RequestError(problems.INTERNAL))
        self._metrics.requests.labels(doing.operation, str(response.status)).inc()
        if doing.changes:
            _log.info("%s: %s: %s", doing.caller, doing.operation, response.status)
        return response

    async def _answer(self, request: web.BaseRequest, doing: _Doing) -> web.StreamResponse:
        if len(request.headers) > _MOST_FIELDS:
            raise RequestError(problems.HEADERS_TOO_LARGE, f"at most {_MOST_FIELDS} fields")
        path, _, query = request.raw_path.partition("?")
        self._check_host(request)
        caller = self._caller(connection_of(request))
        doing.caller = caller.name
        if len(request.raw_path) > _MOST_PATH:
            raise RequestError(problems.URI_TOO_LONG)
        if self._pages.has(path):
            doing.operation, doing.is_page = "page", True
            return response_of(await self._pages.answer(request.method, path, query))
        operation, values = self._routes.find(request.method, path)
        doing.operation, doing.changes = operation.id, operation.changes
        if operation.changes:
            self._check_origin(request)
        if caller.role < operation.role:
            needed = operation.role.name.lower()
            raise RequestError(
                problems.NOT_ALLOWED, f"this is for the role {needed}; see [[role]] in deployer.toml"
            )
        named = operation.read_query(query)
        if operation.id == "streamEvents":
            return await self._stream(request, operation)
        ask = Ask(
            caller=caller,
            path=values,
            query=named,
            body=await self._body(request, operation),
            key=_header(request, operation, KEY),
            receive=lambda: self._receive(request, MAX_PAYLOAD),
        )
        return response_of(await self._handlers.by_id[operation.id](ask))

    def _check_host(self, request: web.BaseRequest) -> None:
        """Refuse a name that is not ours: a page of elsewhere whose name was bound to this address."""
        hosts = request.headers.getall("Host", [])
        name = _name_of(hosts[0]) if len(hosts) == 1 else None
        if name not in self._settings.hosts:
            raise RequestError(
                problems.WRONG_HOST, "name it in api.hosts of deployer.toml if it is this server's"
            )

    def _caller(self, connection: Connection) -> Caller:
        role, name = None, ""
        if connection.peer is not None:
            role, name = self._roles.of_peer(connection.peer), callers.name_of_peer(connection.peer)
        elif connection.subject is not None:
            role, name = (
                self._roles.of_subject(connection.subject),
                callers.name_of_subject(connection.subject),
            )
        else:
            raise RequestError(problems.NO_CALLER)
        if role is None:
            raise RequestError(problems.NO_ROLE, f"no [[role]] of deployer.toml names {name}")
        return Caller(name, role)

    def _check_origin(self, request: web.BaseRequest) -> None:
        """Refuse what a browser sends for a page that is not ours."""
        origin = request.headers.get("Origin")
        own = origin is None or _name_of(origin.partition("://")[2]) in self._settings.hosts
        if not own or request.headers.get("Sec-Fetch-Site", "none") in _CROSS:
            raise RequestError(problems.CROSS_SITE)

    async def _body(self, request: web.BaseRequest, operation: Operation) -> dict[str, Any]:
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if "Content-Encoding" in request.headers:
            raise RequestError(problems.WRONG_TYPE, "send it as it is, without Content-Encoding")
        if operation.body_type == OCTETS:
            if kind != OCTETS:
                raise RequestError(problems.WRONG_TYPE, f"this takes {OCTETS}")
            return {}
        if operation.body_type is not None and kind != operation.body_type:
            raise RequestError(problems.WRONG_TYPE, f"this takes {operation.body_type}")
        if operation.body_type is None and kind not in _FORMS:
            raise RequestError(problems.WRONG_TYPE, "this takes no body")
        if not operation.changes and not request.body_exists:
            return {}
        received = await self._receive(request, self._settings.limits.body_bytes, needs_length=False)
        return operation.read_body(bytes(received))

    async def _receive(self, request: web.BaseRequest, most: int, *, needs_length: bool = True) -> bytearray:
        """Return a whole body: as many bytes as it said, within the time and the bound."""
        length = request.content_length
        if length is None and needs_length:
            raise RequestError(problems.LENGTH_REQUIRED)
        if (length or 0) > most:
            raise RequestError(problems.TOO_LARGE, f"at most {most} bytes")
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        received = bytearray()
        whole = False
        try:
            async with asyncio.timeout(self._settings.limits.request_timeout):
                while chunk := await request.content.readany():
                    received += chunk
                    if len(received) > most:
                        raise RequestError(problems.TOO_LARGE, f"at most {most} bytes")
            whole = length is None or len(received) == length
        except TimeoutError:
            raise RequestError(problems.TOO_SLOW, "send the whole body at once") from None
        finally:
            if not whole:
                received[:] = bytes(len(received))
        if not whole:
            raise RequestError(problems.BAD_REQUEST, "the body ended early")
        return received

    async def _stream(self, request: web.BaseRequest, operation: Operation) -> web.StreamResponse:
        last = request.headers.get(LAST_EVENT)
        after = None if last is None else int(operation.headers[LAST_EVENT].read(last))
        events = self._events.stream(after)
        try:
            first = await anext(events)
            response = web.StreamResponse(headers={**COMMON, "Content-Type": "text/event-stream"})
            response.force_close()
            await response.prepare(request)
            await response.write(first)
            async for event in events:
                async with asyncio.timeout(self._settings.limits.idle_timeout):
                    await response.write(event)
        except TimeoutError:
            connection_of(request).force_close()
        finally:
            await events.aclose()
        return response

    def _refusal(self, doing: _Doing, error: RequestError) -> web.Response:
        if doing.is_page:
            return response_of(self._pages.problem(error))
        return problem_of(error)


class _Doing:
    """What is known of a request so far, for the journal and the figures."""

    __slots__ = ("caller", "changes", "is_page", "operation")

    def __init__(self) -> None:
        self.caller = "?"
        self.operation = "none"
        self.changes = False
        self.is_page = False


def _header(request: web.BaseRequest, operation: Operation, name: str) -> str:
    parameter = operation.headers.get(name)
    values = request.headers.getall(name, [])
    if parameter is None or not values:
        return ""
    if len(values) > 1:
        raise RequestError(problems.BAD_PARAMETER, f"{name} is given twice")
    return str(parameter.read(values[0]))


def _name_of(host: str) -> str:
    """Return the name in a Host header, without its port."""
    name, colon, port = host.rpartition(":")
    if not colon or (port and not port.isdigit()):
        name = host
    return name.lower()
