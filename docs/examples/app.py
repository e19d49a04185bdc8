"""An application: shows that it has read its secrets, by digests, at start and on change."""
import hashlib
from vps_secrets import secrets

def digest(value):  # str, or bytes where the secret is not text
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()[:12]

for values in secrets():
    print(*(f"{name}={digest(values[name])}" for name in sorted(values)), flush=True)
