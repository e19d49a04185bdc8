#!/usr/bin/python3 -I
"""Mails the weekly report by this machine's mail server: /etc/vps-secrets-deployer/send-report (docs/deployment.md).

The page comes on standard input. It has names of machines, users and secrets, and no value.
"""

import email.message
import smtplib
import sys

SERVER, SENDER, RECEIVER = "localhost", "vps-secrets@example.org", "operators@example.org"

message = email.message.EmailMessage()
message["From"], message["To"] = SENDER, RECEIVER
message["Subject"] = "vps-secrets: the week"
message.set_content("The report is attached: one page, to be opened in a browser.")
message.add_attachment(sys.stdin.buffer.read(), maintype="text", subtype="html", filename="report.html")
try:
    with smtplib.SMTP(SERVER, timeout=60) as server:
        server.send_message(message)
except (OSError, smtplib.SMTPException) as error:  # the unit has failed then: doctor and `systemctl --failed` say so
    sys.exit(
        f"send-report: the mail server {SERVER} did not take the report ({type(error).__name__}: {error}). Look at the "
        "server, then: systemctl start vps-secrets-deployer-report.service"
    )
