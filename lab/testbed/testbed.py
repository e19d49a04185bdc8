"""Real Keystone and real Barbican, on sqlite and loopback, from an empty directory in about three seconds.

As a library: `with Testbed(Options(token_cache_time=-1)) as testbed: testbed.places.auth_url`.
As a command, in the foreground until Ctrl-C: `python -m lab.testbed.testbed --help`.

Owns the private directory, the two ports and the two services. Standard library only; the services run in
the server environment that scripts/setup makes. Invariants: nothing but loopback is listened on; the ports
stay reserved while a service is down, so a connection is refused and never answered by a stranger; files and
processes are gone at the end, also when this process is killed (the files then excepted).
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Self

from lab.testbed import config
from lab.testbed.config import REGION, Options, Places
from lab.testbed.service import Service, TestbedError

__all__ = ["REGION", "Options", "Places", "Testbed", "TestbedError"]


class Testbed:
    """Both services. `kill`, `stop`, `restart`, `pause`, `resume` take "keystone" or "barbican"."""

    __test__ = False  # not a test case, whatever its name

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.start_seconds = 0.0
        """From nothing to both services ready."""
        self._resources = contextlib.ExitStack()
        self._services: dict[str, Service] = {}
        self._places: Places | None = None

    @property
    def places(self) -> Places:
        """Addresses, directory and passwords; only after `start`."""
        if self._places is None:
            raise TestbedError("the testbed has not been started")
        return self._places

    def start(self) -> Self:
        """Start both services and wait until both listen.

        Raises:
            TestbedError: a server environment is missing, or a service did not start; nothing is left behind.
        """
        began = time.monotonic()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._places = self._make_places()
            for name, port in (
                ("keystone", self._places.keystone_port),
                ("barbican", self._places.barbican_port),
            ):
                self._services[name] = self._service(name, port)
                self._services[name].start()
            for service in self._services.values():
                service.wait_ready()
            undo.pop_all()
        self.start_seconds = time.monotonic() - began
        return self

    def close(self) -> None:
        """End both services and remove every file; safe to call twice."""
        for service in self._services.values():
            service.end()
        self._services.clear()
        self._resources.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self, name: str) -> None:
        """End a service as a crash would (SIGKILL); connections are then refused."""
        self._services[name].end(signal.SIGKILL)

    def stop(self, name: str) -> None:
        """End a service in order (SIGTERM); connections are then refused."""
        self._services[name].end()

    def restart(self, name: str) -> float:
        """Start a service again, ending it first if it runs: same data, same port. Return the seconds."""
        return self._services[name].restart()

    def wipe(self, name: str) -> None:
        """Let a service lose all of its data: end it, delete its database, start it again."""
        self.stop(name)
        for path in self.places.directory.glob(f"{name}.db*"):
            path.unlink()
        self.restart(name)

    def pause(self, name: str) -> None:
        """Let a service hang (SIGSTOP): connections are accepted by the kernel and never answered."""
        self._services[name].send(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a paused service go on; what has arrived meanwhile is answered."""
        self._services[name].send(signal.SIGCONT)

    def log(self, name: str) -> Path:
        """Return the file that holds the service's log."""
        return self._services[name].log

    @property
    def pids(self) -> dict[str, int | None]:
        """Process ids; None for a service that is down."""
        return {name: service.pid for name, service in self._services.items()}

    @property
    def phases(self) -> dict[str, dict[str, float]]:
        """Seconds per phase of each service's last start."""
        return {name: service.phases for name, service in self._services.items()}

    def write_clouds_yaml(self) -> Path:
        """Write the administrator's login as clouds.yaml (JSON is YAML), mode 0600; return the path."""
        places = self.places
        cloud = {
            "auth_type": "v3password",
            "region_name": REGION,
            **({"cacert": str(places.ca_file)} if places.ca_file else {}),
            "auth": {
                "auth_url": places.auth_url,
                "username": "admin",
                "password": places.admin_password,
                "project_name": "admin",
                "user_domain_id": "default",
                "project_domain_id": "default",
            },
        }
        path = places.directory / "clouds.yaml"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({"clouds": {"testbed": cloud}}, file, indent=1)
        return path

    def _make_places(self) -> Places:
        directory = Path(tempfile.mkdtemp(prefix="testbed-"))  # mode 0700
        self._resources.callback(shutil.rmtree, directory, ignore_errors=True)
        places = Places(
            directory=directory,
            keystone_port=self._reserve_port(),
            barbican_port=self._reserve_port(),
            scheme="http",
        )
        config.write(self.options, places)
        return places

    def _reserve_port(self) -> int:
        """Bind a free port without listening, until `close`.

        With SO_REUSEADDR on both sides Linux lets the service bind it too and listen; while the service is
        down nobody else is given the port, and a connection is refused (socket(7), and tried).
        """
        reservation = self._resources.enter_context(socket.socket())
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        return int(reservation.getsockname()[1])

    def _service(self, name: str, port: int) -> Service:
        places = self.places
        venv = self.options.venv
        if name == "barbican" and self.options.barbican_venv is not None:
            venv = self.options.barbican_venv
        parameters = {
            "directory": str(places.directory),
            "port": port,
            "threads": self.options.threads,
            "region": REGION,
            "auth_url": places.auth_url,
            "barbican_url": places.barbican_url,
            "admin_password": places.admin_password,
            "service_password": places.service_password,
            "certificate": str(places.directory / "server.pem") if places.ca_file else "",
            "private_key": str(places.directory / "server.key") if places.ca_file else "",
        }
        return Service(name, venv / "bin/python", parameters)


def _options(arguments: list[str] | None) -> tuple[Options, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="python -m lab.testbed.testbed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--venv", type=Path, default=Options.venv)
    parser.add_argument("--barbican-venv", type=Path)
    parser.add_argument("--policy", type=Path, help="Barbican's policy.yaml")
    parser.add_argument("--token-expiration", type=int, default=Options.token_expiration, metavar="SECONDS")
    parser.add_argument("--token-cache-time", type=int, default=Options.token_cache_time, metavar="SECONDS")
    for switch in ("enforce-new-defaults", "enforce-scope"):
        parser.add_argument(f"--{switch}", action=argparse.BooleanOptionalAction)
    for switch in ("audit", "debug"):
        parser.add_argument(f"--{switch}", action="store_true")
    parser.add_argument("--once", action="store_true", help="start, print, end: to see the timing")
    parser.add_argument("--watch-stdin", action="store_true", help="end when standard input ends")
    given = parser.parse_args(arguments)
    given.policy = given.policy.read_text() if given.policy else None
    chosen = {
        field.name: getattr(given, field.name) for field in fields(Options) if hasattr(given, field.name)
    }
    return Options(**chosen), given


@contextlib.contextmanager
def _until_signalled() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into an orderly end of the block."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with contextlib.suppress(SystemExit):
        yield


def main(arguments: list[str] | None = None) -> int:
    """Run the testbed in the foreground; prints where it is, never a password."""
    options, given = _options(arguments)
    with _until_signalled(), Testbed(options) as testbed:
        where = {
            "auth_url": testbed.places.auth_url,
            "barbican_url": testbed.places.barbican_url,
            "region": REGION,
            "clouds_yaml": str(testbed.write_clouds_yaml()),
            "cloud": "testbed",
            "pids": testbed.pids,
            "start_seconds": round(testbed.start_seconds, 2),
            "phases": testbed.phases,
        }
        print(json.dumps(where, indent=1), flush=True)
        if given.once:
            return 0
        if given.watch_stdin:
            sys.stdin.read()
        else:
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
