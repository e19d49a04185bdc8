"""``vps-secrets metrics``: the agent's metrics for Prometheus, which reads no Unix socket.

With ``--answer`` standard input is one connection that systemd has accepted (vps-secrets-metrics.socket).
What a network sends is read here, by a process that has no values and no credential and ends with its answer;
the agent gets one request, always the same (docs/adr/0039-a-process-a-scrape.md).
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.answer import AnswerError
from agent.cli.http import PermissionDeniedError, UnreachableError, metrics
from agent.core import http
from agent.core.errors import BODY_NOT_EXPECTED, METHOD_NOT_ALLOWED, NO_SUCH_PATH, RequestError

if TYPE_CHECKING:
    import argparse
    from typing import Final

MAX_HEAD: Final = 8192
REQUEST_S: Final = 5.0
"""How long a scraper may take to ask, and as long again to take the answer."""
TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--file", type=Path, metavar="PATH", help="write them here, for node_exporter's textfile collector"
    )
    way.add_argument("--answer", action="store_true", help="answer one HTTP request on standard input")


def run(options: argparse.Namespace) -> int:
    """Print, write or answer; return the exit status."""
    if options.answer:
        with socket.socket(fileno=os.dup(0)) as connection:
            _answer(connection, options)
    elif options.file is None:
        sys.stdout.write(metrics(options.control_socket, options.timeout).decode("ascii"))
    else:
        _write(options)
    return 0


def _write(options: argparse.Namespace) -> None:
    """Replace the file as a whole. Without an answer it goes: nobody must take old figures for new ones."""
    try:
        text = metrics(options.control_socket, options.timeout)
    except (UnreachableError, PermissionDeniedError, AnswerError):
        options.file.unlink(missing_ok=True)
        raise
    new = options.file.with_name(f"{options.file.name}.new")  # no *.prom: node_exporter reads those only
    new.write_bytes(text)
    new.chmod(0o644)
    new.replace(options.file)


def _answer(connection: socket.socket, options: argparse.Namespace) -> None:
    """Answer one request, whatever it is. A scraper that has gone is nothing to tell."""
    try:
        try:
            request = _request(connection)
            status, text = "200 OK", metrics(options.control_socket, options.timeout)
            if request.method == "HEAD":
                text = b""
        except RequestError as error:
            status, text = f"{error.problem.status} {error.problem.title}", b""
        except (UnreachableError, PermissionDeniedError, AnswerError):
            status, text = "503 Service Unavailable", b""
        connection.settimeout(REQUEST_S)
        fields = f"Content-Type: {TYPE}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n"
        connection.sendall(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode() + text)
    except OSError:
        pass


def _request(connection: socket.socket) -> http.Request:
    """Return the request, which must be one for the metrics.

    Raises:
        RequestError: it is another one, or none.
    """
    end = time.monotonic() + REQUEST_S
    received = b""
    while not (size := http.head_end(received, MAX_HEAD)):
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        chunk = connection.recv(MAX_HEAD)
        if not chunk:
            raise ConnectionResetError
        received += chunk
    request = http.parse(received[:size])
    if request.has_body:
        raise RequestError(BODY_NOT_EXPECTED)
    if request.target != "/metrics":
        raise RequestError(NO_SUCH_PATH)
    if request.method not in {"GET", "HEAD"}:
        raise RequestError(METHOD_NOT_ALLOWED)
    return request
