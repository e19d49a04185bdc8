"""docs/examples/send-report.py in a real SMTP conversation (RFC 5321), and where no server takes it."""

from __future__ import annotations

import email
import email.policy
import socketserver
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.testbed.fakes.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = (Path(__file__).parents[2] / "docs/examples/send-report.py").read_text()
REPORT = "<!doctype html><p>Übersicht</p>".encode() + b"x" * 5000


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mails; ``refuses`` is a word that it answers by 550, such as RCPT."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.refuses = ""
        self.mails: list[bytes] = []


class _Conversation(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            word = line.split()[0].decode().upper()
            if word == self.server.refuses:
                self.wfile.write(b"550 not here\r\n")
            elif word == "DATA":
                self.wfile.write(b"354 go on\r\n")
                self.server.mails.append(b"".join(iter(self.rfile.readline, b".\r\n")))
                self.wfile.write(b"250 taken\r\n")
            else:
                self.wfile.write(b"221 bye\r\n" if word == "QUIT" else b"250 yes\r\n")


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    """A server that runs."""
    with serving(MailServer()) as made:
        yield made


def send(server: MailServer, script: Path) -> subprocess.CompletedProcess[bytes]:
    """Run the example as the unit does; its server is on another port here."""
    address = f"127.0.0.1:{server.server_address[1]}"
    assert '"localhost"' in EXAMPLE
    script.write_text(EXAMPLE.replace('"localhost"', f'"{address}"'))
    return subprocess.run([sys.executable, "-I", script], input=REPORT, capture_output=True, check=False)


def test_the_report_arrives_whole(mail_server: MailServer, tmp_path: Path) -> None:
    """As an attachment, byte for byte."""
    sent = send(mail_server, tmp_path / "send-report")
    assert (sent.returncode, sent.stdout, sent.stderr) == (0, b"", b"")
    (mail,) = mail_server.mails
    message = email.message_from_bytes(mail, policy=email.policy.default)
    (report,) = message.iter_attachments()
    assert (report.get_filename(), report.get_content_type()) == ("report.html", "text/html")
    assert report.get_payload(decode=True) == REPORT


@pytest.mark.parametrize("word", ["MAIL", "RCPT", "DATA"])
def test_a_server_that_refuses(mail_server: MailServer, tmp_path: Path, word: str) -> None:
    """The sender, the receiver, the mail."""
    mail_server.refuses = word
    assert "550" in failure(mail_server, tmp_path / "send-report")


def test_a_server_that_is_away(tmp_path: Path) -> None:
    """Nobody listens."""
    with MailServer() as away:
        pass
    assert "refused" in failure(away, tmp_path / "send-report")


def failure(server: MailServer, script: Path) -> str:
    """Have the example fail, in one line: which server, why, what to do; return it."""
    failed = send(server, script)
    told = failed.stderr.decode()
    assert (failed.returncode, len(told.splitlines()), "Traceback" in told) == (1, 1, False)
    assert told.startswith("send-report: the mail server 127.0.0.1:")
    assert "systemctl start vps-secrets-deployer-report.service" in told
    return told
