"""Runs the real fetch program as serve would: a request on standard input, the reply checked whole."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.core import wire
from lab.testbed.fakes.cloud import VPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from agent.core.errors import Failure
    from agent.core.rotation import Reading
    from common.names import Version
    from lab.testbed.fakes.cloud import FakeCloud


@dataclass(frozen=True)
class Ran:
    """One run of the program; the reply has passed every check of serve's."""

    reply: wire.Reply = field(repr=False)
    status: int
    stderr: bytes = field(repr=False)
    header: bytes = field(repr=False)

    @property
    def calls(self) -> dict[str, int]:
        """HTTP requests by service, whatever their outcome."""
        return {service: sum(outcomes.values()) for service, outcomes in self.reply.calls.items()}

    @property
    def failure(self) -> Failure:
        """The failure that was replied."""
        assert self.reply.failure is not None
        return self.reply.failure

    @property
    def reading(self) -> Reading:
        """The reading that was replied."""
        assert self.reply.reading is not None, str(self.reply.failure)
        return self.reply.reading

    def leaks(self, canaries: Iterable[bytes]) -> bool:
        """Return whether a canary is where it must not be: in the journal or in the reply's header."""
        return any(canary in self.stderr + self.header for canary in canaries)


@dataclass(frozen=True)
class Fetch:
    """How to run it: the configuration file, the environment, the container that is asked for."""

    config: Path
    container: str
    vps_id: str = VPS
    environ: Mapping[str, str] = field(default_factory=dict)
    inherited: tuple[int, ...] = ()
    prefix: tuple[str, ...] = ()
    """A command that runs it, as in other namespaces."""

    def __call__(
        self,
        *,
        known: frozenset[Version] = frozenset(),
        reads_doubles: bool = True,
        timeout: float = 20.0,
        token_state: bytes = b"",
        serves: str | None = None,
    ) -> Ran:
        """Make one cycle; it must end well within the time that serve would wait."""
        request = wire.Request(secrets.token_hex(16), known, reads_doubles, timeout, token_state, serves)
        done = subprocess.run(
            [*self.prefix, sys.executable, "-m", "agent.fetch", "--config", self.config],
            input=wire.encode_request(request),
            capture_output=True,
            env=dict(os.environ) | dict(self.environ),
            pass_fds=self.inherited,
            timeout=timeout + 15,
            check=False,
        )
        assert done.stdout, f"no reply; exit status {done.returncode}"
        length = int.from_bytes(done.stdout[5:9], "big")
        reply = wire.decode_reply(done.stdout, request, self.vps_id, self.container)
        header = done.stdout[wire.PREFIX_BYTES : wire.PREFIX_BYTES + length]
        return Ran(reply, done.returncode, done.stderr, header)


def configure(cloud: FakeCloud, directory: Path, extra: str = "", /, **changes: str) -> Fetch:
    """Write a configuration for the cloud, with the credential in a private file."""
    credential = directory / "credential"
    credential.write_text(cloud.credential + "\n")
    credential.chmod(0o400)
    lines = {
        "auth_url": cloud.auth_url,
        "application_credential_id": "0123456789abcdef",
        "credential_file": str(credential),
    } | changes
    keystone = "\n".join(f'{key} = "{value}"' for key, value in lines.items() if value)
    path = directory / "agent.toml"
    head = f'vps_id = "{VPS}"\ncontainer = "{cloud.container}"\n'
    path.write_text(f'{head}[keystone]\n{keystone}\n{extra}[log]\nlevel = "debug"\n')
    return Fetch(path, cloud.container)
