"""A client at full speed, run inside a machine: python3 load_inside.py keep|new SECONDS; prints JSON."""

import collections
import http.client
import json
import pathlib
import socket
import sys
import time


class Connection(http.client.HTTPConnection):
    """HTTP over the app socket."""

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect("/run/vps-secrets/app.sock")


def main(kind: str, seconds: float) -> None:
    """Read until the time is up or there is a file /tmp/stop, and print what came of it."""
    end = time.monotonic() + seconds
    failed: collections.Counter[str] = collections.Counter()
    connection = None
    requests, worst = 0, 0.0
    while time.monotonic() < end:
        began = time.monotonic()
        try:
            connection = connection or Connection("localhost")
            connection.request("GET", "/v1/secrets/DATABASE_URL")
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                failed[str(answer.status)] += 1
            if kind == "new" or answer.will_close:
                connection.close()
                connection = None
        except (OSError, http.client.HTTPException) as error:
            failed[type(error).__name__] += 1
            connection = None
        requests += 1
        worst = max(worst, time.monotonic() - began)
        if not requests % 200 and pathlib.Path("/tmp/stop").exists():  # noqa: S108  # inside a test's machine
            break
    print(json.dumps({"kind": kind, "requests": requests, "failed": failed, "worst": round(worst, 3)}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
