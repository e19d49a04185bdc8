"""Reads the secrets of this VPS at start and whenever one changes. Python, no dependency."""
import base64, http.client, json, os, socket, sys, time

PATH = os.environ.get("VPS_SECRETS_SOCKET", "/run/vps-secrets/app.sock")

def get(target):
    connection = http.client.HTTPConnection("localhost")
    with socket.socket(socket.AF_UNIX) as connection.sock:
        connection.sock.connect(PATH)
        connection.request("GET", target)
        response = connection.getresponse()
        body = response.read().decode()
    if response.status >= 300:
        raise OSError(f"{target}: {response.status} {body}")
    return json.loads(body) if body else None

def values(bundle):  # text is a str; what is not UTF-8 comes in base64 and is bytes
    return {n: v if isinstance(v, str) else base64.b64decode(v["base64"]) for n, v in bundle["secrets"].items()}

def secrets():
    known = 0  # the generation of the values that we have: 0 for none yet
    while True:
        try:
            if not get(f"/v1/watch?after={known}&timeout=60"):
                continue  # nothing new; a restarted agent knows what has changed since, too
            bundle = get("/v1/bundle")  # one snapshot: values rotated together arrive together
            known = bundle["generation"]
            yield values(bundle)
        except (OSError, http.client.HTTPException) as error:
            print(f"secrets: {error}", file=sys.stderr)
            time.sleep(1)
