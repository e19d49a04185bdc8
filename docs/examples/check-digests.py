#!/usr/bin/python3
"""Compares what this VPS serves with the digests that `vps-secrets-deploy import --digests FILE` wrote.

    runuser -u USER -- ./check-digests.py FILE [SOCKET]

Prints a line for each name; ends with 1 where one is missing or differs. Values are never printed. Delete
FILE afterwards: a short value can be guessed from its digest.
"""
import hashlib
import hmac
import http.client
import json
import socket
import sys

wanted = json.load(open(sys.argv[1]))
path = sys.argv[2] if len(sys.argv) > 2 else "/run/vps-secrets/app.sock"
wrong = 0
for name, digest in sorted(wanted["digests"].items()):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(path)
    connection.request("GET", f"/v1/secrets/{name}", headers={"Accept": "application/octet-stream"})
    answer = connection.getresponse()
    value = answer.read()
    if answer.status != 200:
        word = f"not served (HTTP {answer.status})"
    elif hmac.compare_digest(hmac.new(bytes.fromhex(wanted["key"]), value, hashlib.sha256).hexdigest(), digest):
        word = "the same"
    else:
        word = "DIFFERS"
    wrong += word != "the same"
    print(f"{name}: {word}")
sys.exit(1 if wrong else 0)
