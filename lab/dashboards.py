"""Makes the dashboards for Grafana: ``python -m lab.dashboards`` writes docs/examples/grafana-*.json.

A dashboard is a list of panels; where each stands follows from its width. What each asks for is tried with a
real Prometheus (tests/integration/test_grafana.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, NamedTuple

EXAMPLES: Final = Path(__file__).parents[1] / "docs/examples"
WHOLE: Final = 24
"""Grafana's columns."""
HEIGHT: Final = {"stat": 4, "timeseries": 8, "table": 8}
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
VPS: Final = '{instance="$vps"}'


class Panel(NamedTuple):
    """One picture. ``queries`` by their legend; ``bad_from``: from there on it is red."""

    title: str
    kind: str
    width: int
    queries: dict[str, str]
    unit: str = "short"
    bad_from: float | None = None


FLEET: Final = (
    Panel("VPSs that are ready", "stat", 4, {"": "sum(vps_secrets_ready)"}),
    Panel("Not ready", "stat", 4, {"": "count(vps_secrets_ready == 0) or vector(0)"}, bad_from=1),
    Panel("Away", "stat", 4, {"": 'count(up{job="vps-secrets-agent"} == 0) or vector(0)'}, bad_from=1),
    Panel("Without access", "stat", 4, {"": "sum(vps_secrets_access_denied)"}, bad_from=1),
    Panel("Rotations late", "stat", 4, {"": "sum(vps_secrets_deployer_rotations_overdue)"}, bad_from=1),
    Panel("Two keys", "stat", 4, {"": "sum(vps_secrets_deployer_vps_with_two_keys)"}, bad_from=1),
    Panel("VPSs by look", "timeseries", 12, {"{{look}}": "vps_secrets_deployer_vps"}),
    Panel(
        "Rotations of the last 30 days",
        "timeseries",
        12,
        {"{{outcome}}": "vps_secrets_deployer_recent_rotations"},
    ),
    Panel(
        "Reads and refusals, a second",
        "timeseries",
        12,
        {"{{outcome}}": 'sum by (outcome) (rate(vps_secrets_requests_total{door="app"}[5m]))'},
    ),
    Panel(
        "Readers never seen before, in an hour",
        "timeseries",
        12,
        {"{{instance}}": "increase(vps_secrets_first_reads_total[1h])"},
    ),
    Panel(
        "Oldest values: since Barbican confirmed them",
        "timeseries",
        12,
        {"{{instance}}": "topk(10, vps_secrets_confirmed_age_seconds)"},
        "s",
    ),
    Panel(
        "Calls to Barbican, a second",
        "timeseries",
        12,
        {"{{outcome}}": 'sum by (outcome) (rate(vps_secrets_calls_total{service="barbican"}[5m]))'},
    ),
    Panel(
        "Credentials of VPSs that end first",
        "table",
        12,
        {"": "bottomk(10, vps_secrets_credential_expires_timestamp_seconds - time())"},
        "s",
    ),
    Panel(
        "Credentials of the deployer",
        "table",
        12,
        {"": "vps_secrets_deployer_credential_expires_timestamp_seconds - time()"},
        "s",
    ),
    Panel(
        "Age of the last good backup",
        "timeseries",
        12,
        {"{{place}}": "vps_secrets_deployer_backup_age_seconds"},
        "s",
    ),
    Panel(
        "Cost of this month, as it will be",
        "timeseries",
        12,
        {"": "sum(vps_secrets_month_cost_projected)"},
    ),
)
ONE: Final = (
    Panel("Ready", "stat", 4, {"": f"vps_secrets_ready{VPS}"}),
    Panel("Secrets", "stat", 4, {"": f"vps_secrets_secrets{VPS}"}),
    Panel("Without a value", "stat", 4, {"": f"vps_secrets_secrets_pending{VPS}"}, bad_from=1),
    Panel("Failures in a row", "stat", 4, {"": f"vps_secrets_failures_in_a_row{VPS}"}, bad_from=5),
    Panel("Confirmed", "stat", 4, {"": f"vps_secrets_confirmed_age_seconds{VPS}"}, "s", 3600),
    Panel(
        "Credential ends in",
        "stat",
        4,
        {"": f"vps_secrets_credential_expires_timestamp_seconds{VPS} - time()"},
        "s",
    ),
    Panel(
        "Requests, a second",
        "timeseries",
        12,
        {"{{door}} {{outcome}}": f"rate(vps_secrets_requests_total{VPS}[5m])"},
    ),
    Panel("Connections", "timeseries", 12, {"{{door}}": f"vps_secrets_connections{VPS}"}),
    Panel("Readings", "timeseries", 12, {"{{outcome}}": f"rate(vps_secrets_cycles_total{VPS}[1h])"}),
    Panel("How long a reading takes", "timeseries", 12, {"": f"vps_secrets_last_cycle_seconds{VPS}"}, "s"),
    Panel(
        "Calls to the cloud, a second",
        "timeseries",
        12,
        {"{{service}} {{outcome}}": f"rate(vps_secrets_calls_total{VPS}[1h])"},
    ),
    Panel(
        "Rotations that were served",
        "timeseries",
        12,
        {"": f"changes(vps_secrets_generation{VPS}[1h])"},
    ),
)


def dashboard(uid: str, title: str, panels: tuple[Panel, ...]) -> str:
    """Return it as Grafana imports it."""
    variables: list[dict[str, object]] = [
        {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    ]
    if panels is ONE:
        variables.append(
            {
                "name": "vps",
                "type": "query",
                "datasource": SOURCE,
                "query": "label_values(vps_secrets_ready, instance)",
                "refresh": 2,
                "label": "VPS",
            }
        )
    content = {
        "uid": uid,
        "title": title,
        "tags": ["vps-secrets"],
        "schemaVersion": 36,
        "timezone": "utc",
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": variables},
        "panels": _placed(panels),
    }
    return json.dumps(content, indent=1) + "\n"


def _placed(panels: tuple[Panel, ...]) -> list[dict[str, object]]:
    """Put them into rows, from left to right."""
    placed, left, top, tallest = [], 0, 0, 0
    for number, panel in enumerate(panels, start=1):
        if left + panel.width > WHOLE:
            left, top, tallest = 0, top + tallest, 0
        placed.append(_panel(number, panel, left, top))
        left, tallest = left + panel.width, max(tallest, HEIGHT[panel.kind])
    return placed


def _panel(number: int, panel: Panel, left: int, top: int) -> dict[str, object]:
    steps: list[dict[str, object]] = [{"color": "green", "value": None}]
    if panel.bad_from is not None:
        steps.append({"color": "red", "value": panel.bad_from})
    return {
        "id": number,
        "title": panel.title,
        "type": panel.kind,
        "datasource": SOURCE,
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": HEIGHT[panel.kind]},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": panel.kind == "table",
                "format": "table" if panel.kind == "table" else "time_series",
            }
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }


DASHBOARDS: Final = {
    "grafana-fleet.json": ("vps-secrets-fleet", "vps-secrets: the fleet", FLEET),
    "grafana-vps.json": ("vps-secrets-vps", "vps-secrets: one VPS", ONE),
}


def main() -> None:
    """Write them."""
    for name, (uid, title, panels) in DASHBOARDS.items():
        (EXAMPLES / name).write_text(dashboard(uid, title, panels))


if __name__ == "__main__":
    main()
