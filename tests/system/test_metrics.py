"""Metrics with systemd's own parts: the TCP door with its rules, and the file, on a machine that serves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lab.testbed.prometheus import Prometheus

if TYPE_CHECKING:
    from tests.system.installed import Installed

SOCKET = "vps-secrets-metrics.socket"
FILE = "/run/vps-secrets-metrics/vps-secrets.prom"
SCRAPES = 5


def test_prometheus_scrapes_the_installed_agent(serving: Installed) -> None:
    """Off, on, silent in the journal, and closed to whom it does not name; the machine shares our network."""
    refused = serving.run("curl --silent http://127.0.0.1:9477/metrics", check=False)
    assert refused.code == 7, "it is off by default"
    serving.run(f"systemctl enable --now {SOCKET}")
    try:
        with Prometheus({"vps-secrets-agent": {"target": "127.0.0.1:9477"}}) as prometheus:
            prometheus.until(lambda: prometheus.value("vps_secrets_secrets") == 2)
            prometheus.until(lambda: (prometheus.value("count_over_time(up[5m])") or 0) >= SCRAPES)
            assert prometheus.value("min_over_time(up[5m])") == 1
        told = serving.run("journalctl --quiet --output cat").out
        assert not re.search(r"GET /metrics|One scrape", told), "neither the agent nor systemd writes of each"
        serving.write(
            f"/etc/systemd/system/{SOCKET}.d/test.conf",
            "[Socket]\nIPAddressAllow=\nIPAddressAllow=192.0.2.1\n",
        )
        serving.run(f"systemctl daemon-reload; systemctl restart {SOCKET}")
        done = serving.run("curl --silent --max-time 2 http://127.0.0.1:9477/metrics", check=False)
        assert done.code == 28, "whom IPAddressAllow= does not name gets no connection"
    finally:
        serving.run(f"systemctl disable --now {SOCKET}; rm -rf /etc/systemd/system/{SOCKET}.d")
        serving.run("systemctl daemon-reload")


def test_the_file_for_node_exporter(serving: Installed) -> None:
    """Written by a timer, readable for all, and gone while the agent is."""
    sockets = "vps-secrets-app.socket vps-secrets-control.socket vps-secrets-credentials.socket"
    serving.run("systemctl enable --now vps-secrets-metrics-file.timer")
    try:
        serving.until(lambda: serving.run(f"cat {FILE}", user="recruitiq", check=False).code == 0)
        assert "vps_secrets_ready 1\n" in serving.run(f"cat {FILE}").out
        serving.run(f"systemctl stop {sockets} vps-secrets-agent.service")
        serving.run("systemctl start vps-secrets-metrics-file.service", check=False)
        assert serving.run(f"test -e {FILE}", check=False).code == 1
        serving.run(f"systemctl start {sockets} vps-secrets-agent.service")
        serving.until(lambda: serving.status().get("state") == "ready")
        serving.run("systemctl start vps-secrets-metrics-file.service")
        assert "vps_secrets_ready 1\n" in serving.run(f"cat {FILE}").out
    finally:
        serving.run("systemctl disable --now vps-secrets-metrics-file.timer")
