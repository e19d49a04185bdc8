"""agent/fetch/credential.py and clouds.py: where the secret part comes from, and what is refused."""

from __future__ import annotations

import json
import os
import secrets
from typing import TYPE_CHECKING, Any

import pytest

from agent.config.model import CredentialSource
from agent.core.errors import CloudError, Fault, Step
from agent.fetch.clouds import read_cloud
from agent.fetch.credential import read_secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CANARY = secrets.token_hex(16)


def private(path: Path, content: str = CANARY, mode: int = 0o400) -> Path:
    """Write a file with exactly this mode."""
    path.write_text(content)
    path.chmod(mode)
    return path


def refusal(read: Callable[[], object]) -> str:
    """Return the text with which a credential is refused; it never holds the credential."""
    with pytest.raises(CloudError) as caught:
        read()
    assert (caught.value.failure.step, caught.value.failure.fault) == (Step.CREDENTIAL, Fault.TRANSIENT)
    assert caught.value.__context__ is None
    assert (CANARY in str(caught.value)) is False
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), (" a b \n", " a b "), ("\nä\n", "\nä")],
)
def test_a_file_is_read_without_its_last_newline(tmp_path: Path, content: str, expected: str) -> None:
    """Nothing but the newline at the end is taken away."""
    source = CredentialSource(file=private(tmp_path / "secret", content))
    assert (read_secret(source, {}) == expected) is True


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o420, 0o402, 0o410, 0o444, 0o777])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Whoever else could read it may have done so."""
    source = CredentialSource(file=private(tmp_path / "secret", mode=mode))
    assert "chmod 0400" in refusal(lambda: read_secret(source, {}))


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n\n", b"\xff" * 9, b"x" * 65537])
def test_what_is_no_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, not text, or far too long."""
    path = private(tmp_path / "secret", mode=0o600)
    path.write_bytes(content)
    refusal(lambda: read_secret(CredentialSource(file=path), {}))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    """A directory, a FIFO that nobody writes, a device, a missing file, a path that is none."""
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "missing", tmp_path / "a\0b"):
        refusal(lambda path=path: read_secret(CredentialSource(file=path), {}))  # type: ignore[misc]  # a lambda with a default
    assert "No such file" in refusal(lambda: read_secret(CredentialSource(file=tmp_path / "missing"), {}))


def test_a_credential_of_systemd(tmp_path: Path) -> None:
    """By name in $CREDENTIALS_DIRECTORY."""
    private(tmp_path / "keystone-credential")
    source = CredentialSource(name="keystone-credential")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert (read_secret(source, environ) == CANARY) is True
    assert "LoadCredential=" in refusal(lambda: read_secret(source, {}))
    (tmp_path / "keystone-credential").chmod(0o444)
    refusal(lambda: read_secret(source, environ))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a file of root's")
def test_the_mode_that_systemd_gives_by_acl(tmp_path: Path) -> None:
    """0440 root:root is the mask of an ACL there, and a readable group anywhere else."""
    path = private(tmp_path / "secret", mode=0o440)
    os.chown(path, 0, 0)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert (read_secret(CredentialSource(name="secret"), environ) == CANARY) is True
    refusal(lambda: read_secret(CredentialSource(file=path), {}))
    os.chown(path, 0, 1)
    refusal(lambda: read_secret(CredentialSource(name="secret"), environ))


def test_a_descriptor_is_read_from_its_start_every_time(tmp_path: Path) -> None:
    """Neither its offset nor an earlier cycle matters; its file's mode does, if others can reach it."""
    with private(tmp_path / "secret").open("rb") as file:
        file.read(5)
        source = CredentialSource(fd=file.fileno())
        assert (read_secret(source, {}) == CANARY) is True
        assert (read_secret(source, {}) == CANARY) is True
        (tmp_path / "secret").chmod(0o444)
        refusal(lambda: read_secret(source, {}))
        (tmp_path / "secret").unlink()
        assert (read_secret(source, {}) == CANARY) is True


def test_a_descriptor_that_is_no_file_is_refused() -> None:
    """A pipe can be read only once, and a closed descriptor not at all."""
    reader, writer = os.pipe()
    assert "regular file" in refusal(lambda: read_secret(CredentialSource(fd=reader), {}))
    os.close(reader)
    os.close(writer)
    refusal(lambda: read_secret(CredentialSource(fd=reader), {}))


def test_a_memory_file_is_a_file() -> None:
    """Its mode is 0777, and nobody can open it by a name."""
    descriptor = os.memfd_create("secret")
    os.write(descriptor, CANARY.encode())
    assert (read_secret(CredentialSource(fd=descriptor), {}) == CANARY) is True
    os.close(descriptor)


AUTH = {"auth_url": "https://k.example/v3", "username": "u", "password": CANARY, "project_name": "p"}


def clouds(tmp_path: Path, cloud: object, mode: int = 0o600, name: str = "clouds.yaml") -> Path:
    """Write a clouds file with one cloud; JSON is YAML."""
    path = tmp_path / name
    path.unlink(missing_ok=True)
    return private(path, json.dumps({"clouds": {"vps": cloud}}), mode)


def test_a_cloud_by_name(tmp_path: Path) -> None:
    """Region, interface and CA come along; the password shows in no repr."""
    extras = {"region_name": "R", "interface": "internal", "cacert": "/ca.pem", "identity_api_version": 3}
    cloud = read_cloud(clouds(tmp_path, {"auth": AUTH, **extras}), "vps", secret=None)
    assert (cloud.auth == AUTH) is True
    assert (cloud.region, cloud.interface, cloud.ca_file) == ("R", "internal", "/ca.pem")
    assert not cloud.application_credential
    assert (CANARY in repr(cloud)) is False


def test_the_secret_may_come_from_elsewhere(tmp_path: Path) -> None:
    """From secure.yaml or from the credential source; then clouds.yaml may be read by everybody."""
    public = {key: value for key, value in AUTH.items() if key != "password"}
    path = clouds(tmp_path, {"auth": public}, 0o644)
    assert (read_cloud(path, "vps", secret=CANARY).auth == AUTH) is True
    assert "password" in refusal(lambda: read_cloud(path, "vps", secret=None))
    clouds(tmp_path, {"auth": {"password": CANARY}}, 0o600, "secure.yaml")
    assert (read_cloud(path, "vps", secret=None).auth == AUTH) is True
    (tmp_path / "secure.yaml").chmod(0o644)
    assert "secure.yaml" in refusal(lambda: read_cloud(path, "vps", secret=None))


@pytest.mark.parametrize(
    ("cloud", "text"),
    [
        ({"auth": AUTH, "auth_type": "v3token"}, "auth_type"),
        ({"auth": AUTH, "auth_type": ["v3password"]}, "auth_type"),
        ({"auth": AUTH | {"token": CANARY}}, "token"),
        ({"auth": AUTH, "cert": "/x"}, "cert"),
        ({"auth": AUTH, "verify": False}, "verify"),
        ({"auth": AUTH | {"username": 7}}, "username"),
        ({"auth": AUTH | {"username": ""}}, "username"),
        ({"auth": [CANARY]}, "auth must be a mapping"),
        ({"auth": AUTH, "region_name": [CANARY]}, "region_name"),
        ({"profile": "x"}, "no such cloud"),
        ([CANARY], "no such cloud"),
    ],
)
def test_a_cloud_that_cant_be_used(tmp_path: Path, cloud: Any, text: str) -> None:
    """Every refusal names the key and no value."""
    assert text in refusal(lambda: read_cloud(clouds(tmp_path, cloud), "vps", secret=None))


@pytest.mark.parametrize("text", [f"clouds: [{CANARY}", f"- {CANARY}", f"clouds: {CANARY}", "\0", "a: *b"])
def test_a_clouds_file_that_is_none(tmp_path: Path, text: str) -> None:
    """YAML's own errors quote the file; ours do not."""
    path = private(tmp_path / "clouds.yaml", text)
    assert "not YAML" in refusal(lambda: read_cloud(path, "vps", secret=None))


def test_another_cloud_is_not_taken(tmp_path: Path) -> None:
    """The name must be there."""
    assert "no such cloud" in refusal(
        lambda: read_cloud(clouds(tmp_path, {"auth": AUTH}), "other", secret=None)
    )
