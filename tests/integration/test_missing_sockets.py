"""A socket that systemd could not make: the agent serves on the others, makes none itself, and says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import fake_configuration
from tests.integration.unit import Unit

if TYPE_CHECKING:
    from collections.abc import Iterator

GRANTS = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n[[grant]]\nunit = "consumer.service"\nsecrets = ["*"]\n'
VALUE = b"canary-value"


@pytest.fixture
def unit() -> Iterator[Unit]:
    """A unit that is not started yet, with all its sockets."""
    world = World()
    world.put("A", VALUE)
    with Unit(lambda directory: fake_configuration(directory, world, GRANTS)[1]) as made:
        yield made
        assert (VALUE.decode() in made.log) is False


def _told(unit: Unit, name: str) -> bool:
    return f"{name}.sock is missing" in unit.log and f"restart vps-secrets-{name}.socket" in unit.log


def test_without_the_application_s_socket(unit: Unit) -> None:
    """The control socket answers, and the status says what is wrong and what to do."""
    unit.lose("app")
    unit.start(wait=False)
    unit.until(lambda: unit.status()["state"] == "ready")
    (warning,) = (text for text in unit.status()["warnings"] if "is missing" in text)
    assert "systemctl status vps-secrets-app.socket says why" in warning
    assert _told(unit, "app")
    assert f"on {unit.app}" not in unit.log
    assert not unit.app.exists()
    assert unit.stop() == 0


def test_without_the_operators_socket(unit: Unit) -> None:
    """The application reads, and the journal says what is wrong."""
    unit.lose("control")
    unit.start(wait=False)
    unit.until(lambda: unit.get("/v1/secrets/A").body == VALUE)
    assert _told(unit, "control")
    assert not unit.control.exists()
    assert unit.stop() == 0


def test_with_the_credentials_socket_alone(unit: Unit) -> None:
    """It answers."""
    unit.lose("app", "control")
    unit.start(wait=False)
    with unit.load_credential("consumer.service", "A") as connection:
        assert connection.recv(100) == VALUE
    assert _told(unit, "app")
    assert _told(unit, "control")
    assert not unit.app.exists()
    assert not unit.control.exists()


def test_without_a_configuration() -> None:
    """It waits on those that are there, and says what is missing besides."""
    with Unit("nonsense = 1\n") as unit:
        unit.lose("app")
        unit.start(wait=False)
        unit.until(lambda: unit.ask_control("/v1/status").problem == "not-configured")
        assert _told(unit, "app")
        assert not unit.app.exists()


def test_none_at_all_and_none_can_be_made(unit: Unit) -> None:
    """The unit does not start it again for that: status 78 (RestartPreventExitStatus=)."""
    unit.lose("app", "control", "credentials")
    unit.app.mkdir()
    unit.start(wait=False)
    assert unit.process is not None
    assert unit.process.wait(20) == 78
    assert f"can't listen on {unit.app}" in unit.log
