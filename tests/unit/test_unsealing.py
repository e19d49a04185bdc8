"""agent/fetch/unsealing.py: where the key of a VPS is, and what is said where it is not."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from agent.core.secret import Seal
from agent.fetch.unsealing import Unsealer
from common import sealing, sealing_key
from common.names import SecretName
from common.sealed import Header, SealError

if TYPE_CHECKING:
    from pathlib import Path

VPS, NAME = "vps-1", SecretName("A")
ONE, TWO, THREE = (sealing.new_key() for _ in range(3))
SEALED = sealing.seal(b"value", ONE[1], Header(VPS, NAME, 7, 5, 60))


def _text(*keys: tuple[bytes, bytes]) -> str:
    return "".join(sealing_key.encoded(private) + "\n" for private, _ in keys)


def _credential(directory: Path, text: str) -> Unsealer:
    file = directory / sealing_key.CREDENTIAL
    file.touch(0o400)
    file.chmod(0o600)
    file.write_text(text)
    return Unsealer(VPS, None, {"CREDENTIALS_DIRECTORY": str(directory)})


def _refusal(unsealer: Unsealer) -> str:
    with pytest.raises(SealError) as caught:
        unsealer.open(SEALED, NAME)
    assert sealing_key.encoded(ONE[0]) not in str(caught.value)
    assert caught.value.__context__ is None
    return str(caught.value)


def test_a_value_is_opened_with_the_credential(tmp_path: Path) -> None:
    """Also with two keys in it, whichever fits."""
    for text in (_text(ONE), _text(ONE, TWO), _text(TWO, ONE), _text(ONE).rstrip("\n")):
        assert _credential(tmp_path, text).open(SEALED, NAME) == (
            b"value",
            Seal(7, 5, 60, sealing_key.id_of(ONE[0])),
        )


def test_the_configuration_may_name_a_file(tmp_path: Path) -> None:
    """Where systemd doesn't start the program; the credential is not looked at then."""
    _credential(tmp_path, _text(TWO))
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(_text(ONE))
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert Unsealer(VPS, file, environ).open(SEALED, NAME)[0] == b"value"
    file.chmod(0o644)
    assert "others can read" in _refusal(Unsealer(VPS, file, environ))
    file.unlink()
    assert "can't be read" in _refusal(Unsealer(VPS, file, environ))


def test_the_first_of_its_keys_is_announced(tmp_path: Path) -> None:
    """The public half; nothing where there is no key, and a damaged one is told."""
    wanted = sealing_key.announcement_of(ONE[1])
    assert _credential(tmp_path, _text(ONE, TWO)).announcement() == wanted
    assert _credential(tmp_path, sealing_key.NO_KEY).announcement() is None
    assert Unsealer(VPS, None, {}).announcement() is None
    with pytest.raises(SealError, match="one or 2 lines"):
        _credential(tmp_path, "x").announcement()


def test_without_a_key_it_says_so(tmp_path: Path) -> None:
    """No directory, no file in it, or an empty one, as the unit gives where there is none."""
    assert "has no key" in _refusal(Unsealer(VPS, None, {}))
    assert "has no key" in _refusal(Unsealer(VPS, None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}))
    assert "has no key" in _refusal(_credential(tmp_path, ""))
    assert "has no key" in _refusal(_credential(tmp_path, "\n"))
    assert "has no key" in _refusal(_credential(tmp_path, sealing_key.NO_KEY))


@pytest.mark.parametrize(
    "text",
    ["x", _text(ONE, TWO, THREE), _text(ONE) + "x\n", "\xff", "A" * 44],
    ids=["short", "three", "one-and-more", "no-ascii", "long"],  # never a key in the name of a test
)
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    """Nothing of it is told."""
    assert "one or 2 lines" in _refusal(_credential(tmp_path, text))


def test_another_key_is_refused(tmp_path: Path) -> None:
    """The value stays sealed."""
    assert "another key" in _refusal(_credential(tmp_path, _text(TWO)))


def test_the_library_is_loaded_only_when_a_sealed_value_is_there() -> None:
    """Asked of a real interpreter: fetch without a sealed value, and serve, never have it."""
    program = (
        "import sys\n"
        "import agent.fetch.__main__, agent.fetch.cycle, agent.fetch.payloads, agent.serve.daemon\n"
        "sys.exit(int(any(name.partition('.')[0] == 'cryptography' for name in sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
