#!/usr/bin/python3 -I
"""Brings the signing secret of a webhook to its provider: a command of a blueprint (docs/blueprints.md).

The provider keeps two secrets of each webhook, "a" and "b", and takes what is signed with either. Here come
the facts on standard input, the secret on descriptor 3, the provider's API key on descriptor 5.
"""

import hmac
import json
import os
import sys
import urllib.error
import urllib.request

PROVIDER = "https://api.provider.example/v1/webhooks"
DONE, AGAIN, NEVER = 0, 1, 2


def end(status, words):
    """Say why, in plain words: only short words of what is said here reach the deployer's messages."""
    print(words, file=sys.stderr)
    sys.exit(status)


def call(key, method, path, body=None, headers={}):
    """Make one request; return its HTTP status."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/octet-stream", **headers}
    request = urllib.request.Request(PROVIDER + path, body, headers, method=method)
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        end(AGAIN, "the provider can not be reached")


def main():
    facts = json.load(sys.stdin)
    key = os.fdopen(5).read().strip()
    hook = f"/{facts['vps']}"
    secret = f"{hook}/secrets/{facts['slot']}"
    value = os.fdopen(3, "rb").read() if facts["step"] in ("apply", "test") else b""

    if facts["step"] == "plan":  # nothing is made yet: is the key good, is the webhook there?
        status = call(key, "GET", hook)
    elif facts["step"] == "apply":  # may be repeated: PUT changes nothing the second time
        status = call(key, "PUT", f"{secret}?version={facts['secret']}", value)
    elif facts["step"] == "test":  # the provider answers 200 to a message that is signed with a secret it knows
        signature = hmac.digest(value, b"ping", "sha256").hex()
        status = call(key, "POST", f"{hook}/ping", b"ping", {"Signature": signature})
    elif facts["step"] == "retire":  # only if the slot still has this version, and no later one
        status = call(key, "DELETE", f"{secret}?version={facts['secret']}")
    elif facts["step"] == "lock":  # emergency: no secret is left
        status = call(key, "DELETE", f"{hook}/secrets")
    else:
        end(NEVER, "unknown step")

    if status < 300 or (status == 404 and facts["step"] in ("retire", "lock")):
        end(DONE, "done")
    if status in (401, 403, 404):
        end(NEVER, "the provider refuses the key or knows no such webhook")
    end(AGAIN, "the provider has failed")


main()
