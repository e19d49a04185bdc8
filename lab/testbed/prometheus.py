"""A real Prometheus, Debian's, from build/prometheus (scripts/setup promtool), and the agent's door for it.

Scrapes and rules are looked at each second, so that tests see in seconds what takes minutes on a site.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from lab.testbed.running import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lab.testbed.running import Agent

PROGRAM: Final = ROOT / "build/prometheus/prometheus"
DEADLINE_S: Final = 60.0


class Prometheus:
    """Scrapes ``jobs``, by name, each with its address and more of its scrape_config; ``rules`` are files."""

    def __init__(self, jobs: Mapping[str, Mapping[str, object]], *rules: Path) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="prometheus-"))
        self.port = free_port()
        scrapes = [
            {"job_name": name, "static_configs": [{"targets": [job["target"]]}]}
            | {key: value for key, value in job.items() if key != "target"}
            for name, job in jobs.items()
        ]
        content = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path.resolve()) for path in rules],
            "scrape_configs": scrapes,
        }
        (self._directory / "prometheus.yml").write_text(json.dumps(content))  # which is YAML, too

    def __enter__(self) -> Self:
        self.log = self._directory / "log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(PROGRAM, f"--config.file={self._directory}/prometheus.yml", "--log.level=warn"),
                    *(
                        f"--web.listen-address=127.0.0.1:{self.port}",
                        f"--storage.tsdb.path={self._directory}/data",
                    ),
                ],
                stdout=log,
                stderr=log,
            )
        self.until(self._is_ready)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def value(self, query: str) -> float | None:
        """Return the only value of a query at this moment; None where there is none."""
        result = self._ask(f"/api/v1/query?query={urllib.parse.quote(query)}")["result"]
        assert len(result) <= 1, query
        return float(result[0]["value"][1]) if result else None

    def labels(self, query: str) -> list[dict[str, str]]:
        """Return the labels of each value of a query at this moment."""
        found = self._ask(f"/api/v1/query?query={urllib.parse.quote(query)}")
        if found["resultType"] == "scalar":
            return [{}]
        return [dict(each["metric"]) for each in found["result"]]

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {
            str(alert["labels"]["alertname"])
            for alert in self._ask("/api/v1/alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def until(self, condition: Callable[[], bool], seconds: float = DEADLINE_S) -> None:
        """Wait for a condition; fail with the log where it does not come true."""
        end = time.monotonic() + seconds
        while not condition():
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < end, f"waited {seconds} s in vain: {self.log.read_text()[-3000:]}"
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            return self._get("/-/ready")[0] == http.HTTPStatus.OK
        except OSError:
            return False

    def _ask(self, target: str) -> Any:
        status, body = self._get(target)
        assert status == http.HTTPStatus.OK, (target, status)
        return json.loads(body)["data"]

    def _get(self, target: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            connection.request("GET", target)
            answer = connection.getresponse()
            return answer.status, answer.read()


@contextlib.contextmanager
def metrics_door(agent: Agent) -> Iterator[str]:
    """Do as vps-secrets-metrics.socket: a process for each connection. Gives the address."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "agent.cli", "metrics", "--answer"]
    command += ["--control-socket", str(agent.control)]
    process = subprocess.Popen(
        ["systemd-socket-activate", "--accept", "--inetd", f"--listen={address}", *command],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + DEADLINE_S
        while not _accepts(address):
            assert time.monotonic() < end
            time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _accepts(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True
