"""The dashboard in a real Chromium: at 360 and 1,920 pixels, light and dark, by keyboard, without a script.

The pictures are kept below build/pictures.
"""

from __future__ import annotations

import html
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from playwright.sync_api import sync_playwright
from sqlalchemy import insert, update

from deployer.database import schema
from lab.testbed.dashboard import LATE, fill
from lab.testbed.deployer import Api, Relay
from lab.testbed.running import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

PICTURES: Final = ROOT / "build" / "pictures"
AXE: Final = ROOT / "build" / "axe" / "axe.min.js"
CHROMIUM: Final = shutil.which("chromium") or "chromium is missing"
MARKUP: Final = "<script>document.title='owned'</script><img src=x onerror=alert(1)>\"'><b>"
PAGES: Final = {
    "fleet": "/",
    "filtered": "/?look=failing",
    "vps": f"/vps/{LATE}",
    "operations": "/operations",
    "operation": "",
    "history": "/history",
    "backups": "/backups",
    "checks": "/checks",
    "problem": "/vps/absent",
}
SHAPES: Final = [
    (360, "dark"),
    (1920, "light"),
    *(pytest.param(*shape, marks=pytest.mark.nightly) for shape in ((360, "light"), (1920, "dark"))),
]
HEIGHTS: Final = {360: 800, 1920: 1080}


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """Give an API with ten thousand VPSs."""
    with Api() as made:
        fill(made.database, 10_000)
        yield made


@pytest.fixture(scope="module")
def address(api: Api) -> Iterator[str]:
    """Give where a browser finds it."""
    with Relay(api.socket) as relay:
        yield relay.address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give a Chromium; as root it needs to be told that it has no sandbox."""
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


def paths(api: Api) -> dict[str, str]:
    """Return every page's path."""
    operation = api.ask("GET", "/v1/operations?state=failed").json["items"][0]["id"]
    return {**PAGES, "operation": f"/operations/{operation}"}


def opened(browser: Browser, width: int, scheme: Any, **more: Any) -> BrowserContext:
    """Return a window of a size, in light or dark."""
    viewport: Any = {"width": width, "height": HEIGHTS[width]}
    return browser.new_context(viewport=viewport, color_scheme=scheme, **more)


@pytest.mark.parametrize(("width", "scheme"), SHAPES)
def test_every_page_is_readable_by_everybody(
    api: Api, address: str, browser: Browser, width: int, scheme: str
) -> None:
    """No serious finding of axe-core, nothing wider than the window, no request to elsewhere."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    axe = AXE.read_text()
    wrong: list[str] = []
    for name, path in paths(api).items():
        # axe-core is put in from outside, which the pages' own policy would refuse
        with opened(browser, width, scheme, bypass_csp=True) as context:
            page = context.new_page()
            asked = requests_of(page)
            page.goto(address + path)
            page.screenshot(path=PICTURES / f"{name}-{width}-{scheme}.png", full_page=name != "fleet")
            wide = page.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                wrong.append(f"{name} is {wide} wide")
            wrong += [f"{name} asks for {url}" for url in asked if not url.startswith(f"{address}/")]
            page.evaluate(axe)
            found = page.evaluate("axe.run({resultTypes: ['violations']})")
            wrong += [
                f"{name}: {each['id']}: {each['help']}: {each['nodes'][0]['target']}"
                for each in found["violations"]
                if each["impact"] in {"serious", "critical"}
            ]
    assert wrong == []


def test_the_policy_is_strict_and_nothing_needs_a_script(api: Api, address: str, browser: Browser) -> None:
    """As a browser without scripts shows it, so it is; under the policy nothing is refused either."""
    for path in paths(api).values():
        answer = api.ask("GET", path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; img-src 'self'; ")
        assert "unsafe" not in policy
        assert "set-cookie" not in answer.headers
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        text = answer.body.decode()
        assert re.findall(r"<script|\son[a-z]+=|\sstyle=|javascript:", text) == []
        assert set(re.findall(r'<form[^>]*method="(\w+)"', text)) <= {"get"}
    complaints: list[str] = []
    with opened(browser, 1920, "light") as context:
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text))
        for path in (path for name, path in paths(api).items() if name != "problem"):
            page.goto(address + path)
            assert page.evaluate("document.styleSheets.length") == 1
            assert page.evaluate("getComputedStyle(document.body).fontSize") == "16px"
    assert complaints == []


def requests_of(page: Page) -> list[str]:
    """Return a list that gets the address of everything that a page asks for."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    return asked


def first_screen(page: Page) -> str:
    """Return the text that is within the window."""
    return str(
        page.evaluate(
            "[...document.querySelectorAll('h1, .tile')].filter(e => e.getBoundingClientRect().bottom"
            " <= innerHeight).map(e => e.innerText.replace(/\\s+/g, ' ')).join('; ')"
        )
    )


@pytest.mark.parametrize("width", [360, 1920])
def test_what_needs_somebody_is_seen_without_scrolling(address: str, browser: Browser, width: int) -> None:
    """How many are late, failing, joining, expiring is in the window, on a telephone too, as counted."""
    with opened(browser, width, "light", java_script_enabled=True) as context:
        page = context.new_page()
        page.goto(address)
        seen = first_screen(page)
        assert "30 of 10,000 VPSs need somebody." in seen
        for words in ("late 4", "failing 6", "joining 12", "expiring 20", "fine 9,955"):
            assert words in seen
        rows = page.locator("table.fleet tbody tr")
        assert rows.count() == 100
        looks = [rows.nth(number).locator("td").first.inner_text() for number in range(12)]
        assert looks == ["late"] * 4 + ["failing"] * 6 + ["joining"] * 2


@pytest.mark.parametrize("width", [360, 1920])
def test_who_waits_too_long_is_seen_with_what_to_do(browser: Browser, width: int) -> None:
    """A machine that never joined; then a worker that does not come, which the first sentence says."""
    with Api() as api, Relay(api.socket) as relay, opened(browser, width, "light") as context:
        fill(api.database, 20)
        there = {"id": "vps-new-1", "blueprint": "backend", "labels": {}, "state": "joining", "wave": 0}
        dates = {"created_at": time.time() - 2 * 3600, "next_look": time.time() + 1000}
        with api.database.write() as c:
            c.execute(insert(schema.vps).values(**there, **dates))
        page = context.new_page()
        page.goto(relay.address)
        assert page.locator(".card.bad", has_text="1 to join").count() == 1
        page.get_by_role("link", name="1 to join").click()
        row = page.locator("tbody tr", has_text="vps-new-1").inner_text()
        assert "its machine has not joined; there: journalctl -u vps-secrets-join" in row
        with api.database.write() as c:
            c.execute(update(schema.vps).values(next_look=time.time() - 301))
        page.goto(relay.address)
        assert page.locator("h1.alarm").inner_text() == "No worker comes: 21 of 21 VPSs wait."
        assert page.locator("h1.alarm").bounding_box()["y"] < HEIGHTS[width]
        said = page.locator(".card.bad", has_text="21 for the worker").inner_text()
        assert "systemctl status vps-secrets-deployer-worker" in said
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"waiting-light-{width}.png")
        gauges = api.ask("GET", "/metrics").body.decode()
        assert "vps_secrets_deployer_vps_waiting 21.0" in gauges
        assert "vps_secrets_deployer_vps_joining_long 1.0" in gauges


def test_all_of_it_by_keyboard_and_without_a_script(address: str, browser: Browser) -> None:
    """From the first key to the filter, to a VPS, to its history; what has the focus is seen to have it."""
    with opened(browser, 1920, "light", java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(address)
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # "Skip to the content"
        assert page.url.endswith("#content")
        field = page.get_by_label("Id has")
        for _ in range(20):
            page.keyboard.press("Tab")
            if field.evaluate("e => e === document.activeElement"):
                break
        assert field.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
        page.keyboard.type("-003")
        page.keyboard.press("Enter")
        page.wait_for_url("**q=-003**")
        assert field.input_value() == "-003"
        link = page.get_by_role("link", name=LATE, exact=True)
        link.focus()
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/vps/{LATE}")
        assert page.get_by_role("heading", level=1).inner_text() == LATE
        line = page.get_by_role("img", name="DATABASE_URL: 5 hours late")
        assert line.locator("circle.late").count() == 1
        page.get_by_role("link", name="All of its history").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/history?vps=**")
        page.get_by_role("link", name="Older ones").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**before=**")
        assert page.locator("tbody tr").count() == 30


def test_filters_and_pages_reach_every_vps(api: Api, address: str, browser: Browser) -> None:
    """Look, label and a part of the id, together; and from page to page none is left out or comes twice."""
    with opened(browser, 1920, "light", java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{address}/?look=expiring&label=env%3Dprod")
        ids = page.locator("table.fleet tbody th").all_inner_texts()
        page.get_by_role("link", name="Show all").click()
        page.goto(f"{address}/?q=-1&label=env%3Dstage")
        seen: list[str] = []
        while True:
            seen += page.locator("table.fleet tbody th").all_inner_texts()
            if not page.get_by_role("link", name="Next 100").count():
                break
            page.get_by_role("link", name="Next 100").click()
        assert page.get_by_role("link", name="First page").count() == 1
    wanted = api.ask("GET", "/v1/vps?state=expiring&label=env=prod&limit=1000").json["items"]
    stage = [number for number in range(10_000) if number % 4 == 2 and f"{number:03d}".startswith("1")]
    assert sorted(seen) == sorted(f"vps-stage-{number:03d}" for number in stage)
    assert len(seen) == len(stage) > 250
    assert sorted(ids) == [each["id"] for each in wanted]
    for query in ("look=bad", "label=x", "colour=1", "q=a&q=b", "q=" + "a" * 200, "q=%00"):
        assert api.ask("GET", f"/?{query}").status == 400


def test_a_fleet_of_ten_thousand_costs_little(api: Api) -> None:
    """Below 0.3 s of the server's processor for a page, whatever else this machine does."""
    assert api.process is not None
    stat = Path(f"/proc/{api.process.pid}/stat")

    def ticks() -> int:
        fields = stat.read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    for path in ("/", "/?look=late", "/?label=env=prod", "/?q=vps", f"/vps/{LATE}", "/history"):
        api.ask("GET", path)  # the first one compiles its statements
        before = ticks()
        for _ in range(5):
            assert api.ask("GET", path).status == 200
        assert (ticks() - before) / 5 / 100 < 0.3


def test_markup_in_what_others_wrote_is_text(browser: Browser) -> None:
    """In errors, reasons, names of callers and destinations; no script runs, no picture is asked for."""
    with Api() as api, Relay(api.socket) as relay, opened(browser, 1920, "light") as context:
        fill(api.database, 20, MARKUP)
        operation = api.ask("GET", "/v1/operations?state=failed").json["items"][0]["id"]
        page = context.new_page()
        asked = requests_of(page)
        shown = 0
        for path in (
            "/",
            f"/vps/{LATE}",
            "/operations",
            f"/operations/{operation}",
            "/history",
            "/backups",
            "/checks",
        ):
            text = api.ask("GET", path).body.decode()
            assert MARKUP not in text
            assert "<script" not in text
            shown += MARKUP in html.unescape(text)
            page.goto(relay.address + path)
            assert "owned" not in page.title()
        assert shown == 7
        assert {url.removeprefix(relay.address) for url in asked} <= {
            *("/", f"/vps/{LATE}", "/operations", f"/operations/{operation}", "/history", "/backups"),
            *("/checks", "/style.css", "/icon.svg"),
        }
        answer = api.ask("GET", f"/?q={MARKUP}".replace(" ", "%20").replace("<", "%3C").replace('"', "%22"))
        assert "<script" not in answer.body.decode()


def test_an_empty_fleet_says_how_to_begin() -> None:
    """And a problem is a page, too."""
    with Api() as api:
        assert "There is no VPS yet" in api.ask("GET", "/").body.decode()
        for path in ("/operations", "/history", "/backups", "/checks"):
            assert api.ask("GET", path).status == 200
        absent = api.ask("GET", "/vps/absent")
        assert (absent.status, "There is no VPS of this id" in absent.body.decode()) == (404, True)
        for name in ("absent", "a" * 300, "%00", "%0a", "%f0%9f%98%80"):
            assert api.ask("GET", f"/operations/{name}").status == 404
        assert api.ask("POST", "/").headers["allow"] == "GET, HEAD"
        style = api.ask("GET", "/style.css")
        assert (style.status, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
        assert "url(" not in style.body.decode()
        assert "@import" not in style.body.decode()
