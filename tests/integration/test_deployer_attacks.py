"""Attacks on the deployer's API and dashboard, on every route and every field that its contract has.

By somebody without the role, by a page of elsewhere in a real browser, by words that are SQL, markup or a
template; on both databases. A route or a field that comes later is tried without a change here.
"""

from __future__ import annotations

import grp
import html.parser
import http.server
import os
import re
import shutil
import threading
import urllib.parse
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pytest
from playwright.sync_api import sync_playwright

from deployer.api import contract
from deployer.api.dashboard.pages import ASSETS
from deployer.config.model import Role
from lab.testbed.deployer import JSON, ROUTES, Api, Relay
from lab.testbed.postgresql import Postgresql
from tests.integration.canary_lists import TEMPLATES
from tests.integration.test_deployer_api_hostile import BODIES, CHANGES, OCTETS, everything, prepared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deployer.api.contract import Operation
    from lab.testbed.running import Response

PAGES: Final = (*sorted({path.format(vps="vps-1", operation="x") for path in TEMPLATES.values()}), *ASSETS)
GROUPS: Final = {Role.VIEWER: "games", Role.PORTAL: "mail", Role.OPERATOR: "news"}
MARK: Final = "zq7"
FACTORS: Final = "10000019*10000079"
ATTACKS: Final = (
    f"{MARK}'; DROP TABLE vps; --",
    f"{MARK}' OR '1'='1",
    f"{MARK}%' UNION SELECT text FROM blueprint --",  # noqa: S608  # that is the attack
    f"{MARK}\\'\"); SELECT pg_sleep(9); --",
    f"<script>{MARK}</script>\"'><img src=x onerror=alert(1)>",
    f"{MARK}{{{{{FACTORS}}}}}{{% for x in ().__class__.__base__ %}}${{{FACTORS}}}%(vps)s%n{{0.__class__}}",
    f"{MARK}\r\nX-Injected: 1\r\n\r\n",
    f"../../../etc/{MARK}\x00\x1b[2J\u202e\ufeff",
)
CALCULATED: Final = str(10000019 * 10000079)
"""Fifteen digits: no id and no time has them by chance."""


@pytest.fixture(scope="module")
def guarded() -> Iterator[Api]:
    """An API with a group for each role; whoever runs the tests is an operator."""
    rules = "".join(
        f'[[role]]\nrole = "{role.name.lower()}"\ngroup = "{group}"\n' for role, group in GROUPS.items()
    )
    with Api(rules, api='group = "nogroup"') as made:
        prepared(made)
        yield made


def target_of(operation: Operation) -> str:
    """Return its path, of things that are there."""
    path = operation.template.replace("{id}", "vps-1").replace("{name}", "SMTP_PASSWORD")
    return path.replace("{operation}", "0" * 36)


def ask_as(api: Api, role: Role | None, method: str, target: str, content: object = None) -> Response:
    """Ask with a role; only root can be somebody else, anybody else has the role that the tests give him."""
    groups = (grp.getgrnam(GROUPS[role]).gr_gid,) if role is not None else ()
    return api.ask_as_somebody(method, target, content, groups=groups)


AS_ROOT: Final = os.geteuid() == 0
"""Only root can ask as somebody else."""


@pytest.mark.parametrize("operation", ROUTES.operations, ids=lambda each: each.id)
def test_every_route_is_refused_without_its_role(guarded: Api, operation: Operation) -> None:
    """To a stranger and to each role below: 403, nothing changed, nobody told."""
    assert operation.role in GROUPS
    before = everything(guarded)
    for role in (None, *(role for role in GROUPS if role < operation.role)) if AS_ROOT else ():
        answer = ask_as(guarded, role, operation.method, target_of(operation), BODIES.get(operation.id))
        wanted = "no-role" if role is None else "not-allowed"
        assert (answer.status, answer.problem) == (403, wanted), role
    assert everything(guarded) == before
    assert guarded.parts is not None
    assert guarded.parts.told == []


def test_every_route_is_open_to_its_role() -> None:
    """The control: what is refused above is not refused to who has the role, in the order of the contract."""
    rules = "".join(
        f'[[role]]\nrole = "{role.name.lower()}"\ngroup = "{group}"\n' for role, group in GROUPS.items()
    )
    with Api(rules, api='group = "nogroup"') as api:
        prepared(api)
        for operation in ROUTES.operations if AS_ROOT else ():
            if operation.id != "streamEvents":  # it has no end
                role, content = operation.role, BODIES.get(operation.id)
                answer = ask_as(api, role, operation.method, target_of(operation), content)
                assert answer.status not in {401, 403}, operation.id


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_refused_to_a_stranger(guarded: Api, page: str) -> None:
    """And shown to a viewer, who is the least."""
    if AS_ROOT:
        refused = ask_as(guarded, None, "GET", page)
        assert (refused.status, refused.problem) == (403, "no-role")
        assert ask_as(guarded, Role.VIEWER, "GET", page).status in {200, 404}


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "169.254.169.254", "[::1]"])
def test_no_route_answers_under_another_name(guarded: Api, host: str) -> None:
    """A name that its owner bound to this address (DNS rebinding): no answer has anything in it."""
    before = everything(guarded)
    for method, target, content in (
        *((each.method, target_of(each), BODIES.get(each.id)) for each in ROUTES.operations),
        *(("GET", page, None) for page in PAGES),
    ):
        answer = guarded.ask(method, target, content, headers={"Host": host})
        assert answer.status == 421
        assert b"vps-1" not in answer.body
    assert everything(guarded) == before


@pytest.mark.parametrize("operation", CHANGES, ids=lambda each: each.id)
def test_no_page_of_elsewhere_changes_anything(guarded: Api, operation: Operation) -> None:
    """By what browsers say of a page, or by the forms that pages can send without being asked (CSRF)."""
    before, target = everything(guarded), target_of(operation)
    sent = JSON if operation.id != "giveValue" else OCTETS
    body = b'{"reason": "r"}'
    for headers in (
        {**sent, "Origin": "https://evil.example"},
        {**sent, "Origin": "null"},
        {**sent, "Origin": "http://localhost.evil.example"},
        {**sent, "Origin": "https://evil.example#localhost"},
        {**sent, "Origin": "https://localhost@evil.example"},
        {**sent, "Sec-Fetch-Site": "cross-site"},
        {**sent, "Sec-Fetch-Site": "same-site"},
    ):
        answer = guarded.ask(operation.method, target, body=body, headers=headers)
        assert (answer.status, answer.problem) == (403, "cross-site"), headers
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"):
        answer = guarded.ask(operation.method, target, body=body, headers={"Content-Type": kind})
        assert (answer.status, answer.problem) == (415, "wrong-type"), kind
    assert everything(guarded) == before


EVIL_PAGE: Final = """<!doctype html><title>evil</title>
<form id=f method=post action="{api}/v1/vps/vps-1/claim" enctype="text/plain" target=i>
<input name='{{"reason":"' value='"}}'></form><iframe name=i></iframe>
<iframe id=framed src="{api}/vps/vps-1"></iframe>
<script>
f.submit();
const asked = [];
const ask = (path, how) => asked.push(fetch("{api}" + path, how).then(r => r.text(), e => "refused"));
for (const mode of ["no-cors", "cors"]) {{
  ask("/v1/vps", {{mode}}); ask("/", {{mode}});
  ask("/v1/vps/vps-1/rotate", {{mode, method: "POST", body: '{{"reason":"r"}}'}});
  ask("/v1/vps/vps-1/claim", {{mode, method: "POST"}});
}}
const headers = {{"Content-Type": "application/json"}};
ask("/v1/vps/vps-1/rotate", {{method: "POST", body: '{{"reason":"r"}}', headers}});
Promise.all(asked).then(found => document.title = "done " + JSON.stringify(found));
</script>"""


def test_a_browser_on_a_page_of_elsewhere_gets_and_changes_nothing() -> None:
    """Forms, requests and frames of a real page at another origin, in Chromium; and under a false name."""
    with Api() as api, Relay(api.socket) as relay:
        prepared(api)
        before = everything(api)
        page_text = EVIL_PAGE.format(api=relay.address).encode()

        class Evil(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(page_text)

            def log_message(self, *_: object) -> None:
                return

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = relay.address.rpartition(":")[2]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium") or "chromium is missing",
                args=["--no-sandbox", "--host-resolver-rules=MAP evil.example 127.0.0.1"],
            )
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.wait_for_function("document.title.startsWith('done')")
            assert "vps-1" not in page.title()
            assert page.title().count("refused") >= 4
            framed = page.frame(url=re.compile(".*/vps/vps-1"))
            assert framed is None or "JWT_SECRET" not in framed.content()
            rebound = page.goto(f"http://evil.example:{port}/")
            assert rebound is not None
            assert rebound.status == 421
            assert "vps-1" not in page.content()
            own = page.goto(relay.address)  # the control: the browser reaches it
            assert own is not None
            assert own.status == 200
            assert "vps-1" in page.content()
            browser.close()
        server.shutdown()
        server.server_close()
        assert everything(api) == before
        assert api.parts is not None
        assert [one for one in api.parts.told if one.path != "/wake"] == []


@pytest.fixture(params=["sqlite", "postgresql"])
def attacked(request: pytest.FixtureRequest) -> Iterator[Api]:
    """An API on each database."""
    if request.param == "sqlite":
        with Api() as made:
            prepared(made)
            yield made
        return
    with Postgresql() as server, Api(database=server.url) as made:
        prepared(made)
        yield made


def fields(schema: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield where a body may have text: the steps to it; ``*`` is a member of any name, ``[]`` an element."""
    for name, each in schema.get("properties", {}).items():
        yield from fields(each, (*before, name))
    if isinstance(schema.get("additionalProperties"), dict):
        yield (*before, "*")
        yield from fields(schema["additionalProperties"], (*before, "a"))
    if isinstance(schema.get("items"), dict):
        yield from fields(schema["items"], (*before, "[]"))
    if schema.get("type") == "string":
        yield before


def with_text(body: dict[str, Any], path: tuple[str, ...], words: str) -> dict[str, Any]:
    """Return a body with the words at that place."""
    value: Any = words
    for step in reversed(path[1:]):
        value = [value] if step == "[]" else {words: "x"} if step == "*" else {step: value}
    return {**body, path[0]: value}


Attempt: TypeAlias = "tuple[str, str, Any, dict[str, str]]"
"""Method, target, body, headers."""


def attempts_at(operation: Operation, words: str) -> Iterator[Attempt]:
    """Yield requests with the words at every place that the contract has for an operation."""
    quoted = urllib.parse.quote(words, safe="")
    target, body, method = target_of(operation), BODIES.get(operation.id), operation.method
    if operation.id == "retireVps":
        body = {"reason": "r", "confirm": "another"}  # or nothing would be left to attack
    for name in operation.path:
        template = operation.template.replace(f"{{{name}}}", quoted)
        path = template.replace("{id}", "vps-1").replace("{name}", "A").replace("{operation}", "0" * 36)
        yield method, path, body, {}
    for name in operation.query:
        yield method, f"{target}?{name}={quoted}", body, {}
    if words.isprintable() and words.isascii():
        for name in operation.headers:
            yield method, target, body, {name: words}
    if operation.body is not None:
        for place in fields(contract.resolved(operation.body.schema)):
            yield method, target, with_text(body or {}, place, words), {}


def attempts(words: str) -> Iterator[Attempt]:
    """Yield requests with the words at every place that the contract and the pages have."""
    quoted = urllib.parse.quote(words, safe="")
    for operation in ROUTES.operations:
        if operation.id != "streamEvents":  # it has no end
            yield from attempts_at(operation, words)
    for page in ("/", "/history", "/operations", "/vps/vps-1", "/backups", "/checks"):
        for name in ("look", "q", "label", "after", "vps", "before", "x"):
            yield "GET", f"{page}?{name}={quoted}", None, {}
    for page in ("/vps/", "/operations/", "/v1/", "/"):
        yield "GET", page + quoted, None, {}


def kept(api: Api) -> dict[str, list[tuple[object, ...]]]:
    """Return what no attempt may change: everything but orders, and who asked for them."""
    tables = everything(api)
    return {name: tables[name] for name in ("blueprint", "version", "deployment", "backup", "check_result")}


class Markup(html.parser.HTMLParser):
    """Reads a page as a browser does; ``wrong`` is what could run, or ask for something elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one tag."""
        if tag in {"script", "iframe", "object", "embed", "base", "style"}:
            self.wrong.append(tag)
        for name, value in attrs:
            to = value or ""
            elsewhere = name in {"href", "src", "action", "formaction"} and not re.match(r"/(?!/)|#", to)
            if name.startswith("on") or name in {"style", "srcdoc"} or elsewhere:
                self.wrong.append(f"{tag} {name}")
        if tag == "img" and ("src", "/icon.svg") not in attrs:
            self.wrong.append("img")


def test_markup_that_could_run_is_found() -> None:
    """The control."""
    for text in (
        "<script>x</script>",
        "<a href='javascript:x'>",
        "<a href=//evil.example>",
        "<b onclick=x>",
        "<img src=x>",
    ):
        markup = Markup()
        markup.feed(text)
        assert markup.wrong


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_words_that_are_code_are_words(attacked: Api) -> None:
    """In every field: no error of ours, no table lost, no row of another, nothing run, all shown as text."""
    before, sent, taken = kept(attacked), 0, 0
    for words in ATTACKS:
        for method, target, body, headers in attempts(words):
            answer = attacked.ask(method, target, body, headers=headers)
            sent += 1
            taken += answer.status < 300
            assert answer.status < 500, (method, target, answer.status)
            assert "x-injected" not in answer.headers
            shown = answer.body.decode()
            assert CALCULATED not in shown
            assert answer.headers["x-content-type-options"] == "nosniff"
            if answer.headers["content-type"].startswith("text/html"):
                assert f"<script>{MARK}" not in shown
                assert "<img src=x" not in shown
    assert sent > 60 * len(ATTACKS)
    assert taken > 3 * len(ATTACKS)
    assert kept(attacked) == before
    assert [row[0] for row in everything(attacked)["vps"]] == ["vps-1"]
    stored = 0
    for page in PAGES:
        answer = attacked.ask("GET", page)
        text = answer.body.decode()
        stored += MARK in text
        markup = Markup()
        markup.feed(text if answer.headers["content-type"].startswith("text/html") else "")
        assert markup.wrong == []
    assert stored >= 2, "nothing was stored: the attempts were refused too early to mean anything"
    log = attacked.log.read_text()
    assert "Traceback" not in log
    assert "\x1b" not in log
    assert MARK not in log
