"""Runs one shell script inside the guest: JSON on standard input, JSON on standard output (a connection)."""

import json
import subprocess
import sys

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "SYSTEMD_PAGER": "",
    "SYSTEMD_COLORS": "0",
    "DEBIAN_FRONTEND": "noninteractive",
}


def main() -> None:
    """Read until the other side has closed its half, run, answer."""
    asked = json.load(sys.stdin)
    done = subprocess.run(  # what the test sends
        asked["command"],
        input=asked["given"],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        cwd="/",
    )
    json.dump([done.returncode, done.stdout, done.stderr], sys.stdout)


if __name__ == "__main__":
    main()
