"""Where things are unless a configuration says otherwise: sockets, and ports (RFC 9110, section 4.2)."""

from __future__ import annotations

from typing import Final

APP_SOCKET: Final = "/run/vps-secrets/app.sock"
CONTROL_SOCKET: Final = "/run/vps-secrets/control.sock"
FETCH_SOCKET: Final = "/run/vps-secrets/fetch.sock"
DEFAULT_PORTS: Final = {"https": 443, "http": 80}
