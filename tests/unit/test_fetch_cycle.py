"""agent/fetch/cycle.py: what is only good to know can't cost a reading; the rest is in tests/integration."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from agent.core.errors import CloudError, Failure, Fault, Step
from agent.core.rotation import Reading
from agent.core.wire import Request
from agent.fetch import expiry
from agent.fetch.cycle import Cycle
from agent.fetch.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUEST = Request("0" * 32, frozenset(), reads_doubles=True, timeout=5.0)
DENIED = Failure(Step.PERMISSION, Fault.DENIED, "read", "access was taken away", 403)
ODD_TOKENS: tuple[Mapping[str, object], ...] = (
    {"application_credential_access_rules": ["no rule"]},
    {"application_credential_access_rules": 1},
    {"application_credential_access_rules": None},  # and no user in it
)


def _cycle(monkeypatch: pytest.MonkeyPatch, token: Mapping[str, object], failure: Failure | None) -> Cycle:
    """Return a cycle whose login gave an odd token, and which then ends so."""
    settings: Any = SimpleNamespace(threads=1, connect_timeout=1.0)
    config: Any = SimpleNamespace(
        vps_id="vps-1", container=SimpleNamespace(id="c"), keystone=None, fetch=settings
    )
    access = SimpleNamespace(application_credential_id="id", **token)
    login: Any = SimpleNamespace(plugin=SimpleNamespace(auth_ref=access), auth_url="https://k")
    cycle = Cycle(config, REQUEST, time.monotonic())

    def read() -> Reading:
        cycle._transport = Transport("https://k", settings, time.monotonic() + 5)
        cycle._ask_expiry = lambda known: expiry.learn(login, None, known, time.time())
        if failure is not None:
            raise CloudError(failure)
        return Reading((), {}, {})

    monkeypatch.setattr(cycle, "_read", read)
    return cycle


@pytest.mark.parametrize("token", ODD_TOKENS)
def test_an_odd_token_costs_nothing_but_the_expiry(
    monkeypatch: pytest.MonkeyPatch, token: Mapping[str, object]
) -> None:
    """A reading stays one, and a failure says why."""
    assert _cycle(monkeypatch, token, None).run().reading is not None
    assert _cycle(monkeypatch, token, DENIED).run().failure == DENIED


def test_a_bug_is_told_by_its_type_alone() -> None:
    """In the main thread and in another: the texts of libraries' errors may hold a token."""
    program = (
        "import threading, agent.fetch.__main__ as program\n"
        "def bug(): raise ValueError('canary')\n"
        "def twice():\n"
        "    thread = threading.Thread(target=bug)\n"
        "    thread.start(); thread.join(); bug()\n"
        "program._read_message = twice\n"
        "program.main([])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    line = b"fetch: ERROR: ended by a bug, report it: ValueError\n"
    assert (done.returncode, done.stderr) == (1, line * 2)
