"""``vps-secrets-deploy report`` with a real API: the page of a week with trouble, and of one without."""

from __future__ import annotations

import html.parser
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from deployer.database import rotations
from lab.testbed.deployer import Api
from lab.testbed.running import ROOT
from tests.integration import report_load
from tests.integration.test_deployer_api import as_the_worker
from tests.integration.test_deployer_api_hostile import prepared
from tests.unit import test_deployer_accesses as records

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

DAY_S = 86400.0


def report(api: Api, lines: bytes, *options: str) -> str:
    """Run it."""
    command = [sys.executable, "-m", "deployer.cli", "report", "--socket", str(api.socket), *options]
    done = subprocess.run(command, cwd=ROOT, input=lines, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


class Outside(html.parser.HTMLParser):
    """Collects what a page takes from elsewhere, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.tags.add(tag)
        self.links += [str(value) for name, value in attrs if name in {"src", "href"}]


def test_a_week_with_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """First what to look at, with what is behind it; words of others are text."""
    now = time.time()
    monkeypatch.setattr(records, "NOW", now)
    denied = {"VPS_SECRETS_OUTCOME": "denied", "VPS_SECRETS_REASON": "<script>"}
    lines = b"".join(
        [
            *(records.line(20, VPS_SECRETS_NAME="A") for _ in range(3)),
            records.line(1, VPS_SECRETS_NAME="A"),
            records.line(1, VPS_SECRETS_NAME="B", VPS_SECRETS_UNIT="<b>.service"),
            *(records.line(2, **denied) for _ in range(12)),
            records.line(20, _HOSTNAME="vps-2"),
            records.line(1, _SYSTEMD_UNIT="evil.service"),
        ]
    )
    with Api() as api:
        prepared(api)
        as_the_worker(api.database)
        with api.database.write() as c:
            rotations.want(
                c,
                now,
                "vps-1",
                "session",
                ["JWT_SECRET"],
                reason="schedule",
                asked_by="worker",
                due=now - 600,
            )
        page = report(api, lines)
        found: dict[str, Any] = json.loads(report(api, lines, "--json"))
    words = [one["words"] for one in found["findings"]]
    assert words[0] == "vps-1: <b>.service read B for the first time"
    starts = ("12 refusals", "vps-2: no record", "vps-1: evil.service wrote")
    assert all(any(one.startswith(start) for one in words) for start in starts)
    assert any("JWT_SECRET is late by" in one for one in words)
    pages = [one["remedy"] for one in found["findings"] if one["remedy"].startswith("docs/")]
    assert all((ROOT / page).exists() for page in pages)
    reads = {(one["name"], one["count"], one["before"]) for one in found["reads"]}
    assert reads == {("A", 1, 3), ("B", 1, 0)}
    assert sum(found["refusedByDay"]) == 12
    parsed = Outside()
    parsed.feed(page)
    assert not parsed.tags & {"script", "b.service", "link", "img"}
    assert parsed.links == [], "one file, and nothing from elsewhere"
    assert "&lt;script&gt;" in page
    assert page.index("read B for the first time") < page.index("Who read what")


def test_a_week_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so; and that no record came, where none did."""
    monkeypatch.setattr(records, "NOW", time.time())
    with Api() as api:
        assert "Nothing." in report(api, records.line(1))
        assert "No record came" in report(api, b"")


def test_memory_does_not_grow_with_records() -> None:
    """They are counted as they come; docs/figures.md has ten million."""
    with Api() as api:
        few = report_load.cost(1_000, api.socket, "--json")
        many = report_load.cost(100_000, api.socket, "--json")
    found = json.loads(many.page)
    assert sum(one["count"] + one["before"] for one in found["reads"]) == 100_000
    assert found["versions"]["served"] == len(found["reads"]) == 700
    assert many.memory_mb < few.memory_mb + 20
    assert many.memory_mb < 200


def test_an_audit_that_can_t_be_read_is_told(tmp_path: Path) -> None:
    """With its name; no page is printed that looks whole."""
    command = [sys.executable, "-m", "deployer.cli", "report", "--barbican-audit", str(tmp_path / "gone")]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"gone: No such file" in done.stderr
