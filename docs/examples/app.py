"""An application: shows that it has read its secrets, by digests, at start and on change."""
import hashlib
from vps_secrets import secrets

for values in secrets():
    shown = (f"{name}={hashlib.sha256(values[name].encode()).hexdigest()[:12]}" for name in sorted(values))
    print(*shown, flush=True)
