"""The configuration files of a testbed: everything that Keystone and Barbican read, as text.

Owns no state: from `Options` and `Places` it makes files in the testbed's private directory, once, before the
first start; a restarted service reads the same files again. The keys and passwords are random per testbed.
"""

import base64
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
REGION = "RegionOne"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a test may choose. Times are in seconds; None leaves the release's own default in force."""

    venv: Path = PROJECT_ROOT / "build/cloud-venv"
    barbican_venv: Path | None = None
    policy: str | None = None
    """Text of Barbican's policy.yaml."""
    token_expiration: int = 3600
    token_cache_time: int = 300
    """How long Barbican trusts a token without asking Keystone; -1 asks every time."""
    enforce_new_defaults: bool | None = None
    enforce_scope: bool | None = None
    audit: bool = False
    debug: bool = False
    threads: int = 8


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where one testbed lives: its directory, its ports, and the passwords of its two service accounts."""

    directory: Path
    keystone_port: int
    barbican_port: int
    scheme: str = "http"
    admin_password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    service_password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    @property
    def auth_url(self) -> str:
        """Keystone's address."""
        return f"{self.scheme}://127.0.0.1:{self.keystone_port}/v3"

    @property
    def barbican_url(self) -> str:
        """Barbican's address, without the API version."""
        return f"{self.scheme}://127.0.0.1:{self.barbican_port}"

    @property
    def ca_file(self) -> Path | None:
        """The throwaway authority that signed both services' certificates; None without TLS."""
        return self.directory / "ca.pem" if self.scheme == "https" else None


def write(options: Options, places: Places) -> None:
    """Write every file, readable by the owner only."""
    directory = places.directory
    for repository in ("fernet", "credential"):
        (directory / repository).mkdir(mode=0o700)
        for number in ("0", "1"):
            _write(directory / repository / number, _key())
    _write(directory / "keystone.conf", _keystone_conf(options, places))
    home = directory / "home/.barbican"  # Barbican takes no file as an option: it looks below $HOME
    home.mkdir(mode=0o700, parents=True)
    _write(home / "barbican.conf", _barbican_conf(options, places))
    _write(directory / "barbican-api-paste.ini", _paste_ini(options, places))
    _write(directory / "api_audit_map.conf", AUDIT_MAP)
    if options.policy is not None:
        _write(directory / "policy.yaml", options.policy)


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _key() -> str:
    """Return 32 random bytes as Fernet and simple_crypto want them."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def _keystone_conf(options: Options, places: Places) -> str:
    directory = places.directory
    # timeout=30: without it Keystone 27 answers POST /users with a bare 500, "database is locked".
    # cache: without it one token validation costs 447 SQL statements; one process, so memory is coherent.
    # password_hash_rounds: bcrypt's minimum, or each login would cost 0.2 s.
    return f"""\
[DEFAULT]
debug = {options.debug}
[database]
connection = sqlite:///{directory}/keystone.db?timeout=30
[token]
provider = fernet
expiration = {options.token_expiration}
allow_expired_window = 3600
[fernet_tokens]
key_repository = {directory}/fernet
[fernet_receipts]
key_repository = {directory}/fernet
[credential]
key_repository = {directory}/credential
# Keystone 27 can't put an EC2 credential into a cache in memory: it answers 500
caching = false
caching = false
[cache]
enabled = true
backend = dogpile.cache.memory
[identity]
password_hash_rounds = 4
"""


def _barbican_conf(options: Options, places: Places) -> str:
    directory = places.directory
    policy = {
        "policy_file": directory / "policy.yaml" if options.policy is not None else None,
        "enforce_new_defaults": options.enforce_new_defaults,
        "enforce_scope": options.enforce_scope,
    }
    chosen = "".join(f"{key} = {value}\n" for key, value in policy.items() if value is not None)
    ca = f"cafile = {places.ca_file}\n" if places.ca_file else ""
    # service_type: without it every request with a rule-restricted token is 401.
    return f"""\
[DEFAULT]
host_href = {places.barbican_url}
db_auto_create = true
debug = {options.debug}
[database]
connection = sqlite:///{directory}/barbican.db?timeout=30
[secretstore]
enabled_secretstore_plugins = store_crypto
[crypto]
enabled_crypto_plugins = simple_crypto
[simple_crypto_plugin]
kek = {_key()}
[oslo_policy]
{chosen}[audit_middleware_notifications]
driver = log
[keystone_authtoken]
www_authenticate_uri = {places.auth_url}
auth_type = password
auth_url = {places.auth_url}
username = barbican
password = {places.service_password}
project_name = service
user_domain_id = default
project_domain_id = default
service_type = key-manager
token_cache_time = {options.token_cache_time}
{ca}"""


def _paste_ini(options: Options, places: Places) -> str:
    """Return Barbican's own pipelines, less the health check; the audit filter only when asked for."""
    audit = "audit " if options.audit else ""
    return f"""\
[composite:main]
use = egg:Paste#urlmap
/: barbican_version
/v1: barbican_api
[pipeline:barbican_version]
pipeline = cors request_id http_proxy_to_wsgi microversion versionapp
[pipeline:barbican_api]
pipeline = cors request_id http_proxy_to_wsgi authtoken context microversion {audit}apiapp
[app:apiapp]
paste.app_factory = barbican.api.app:create_main_app
[app:versionapp]
paste.app_factory = barbican.api.app:create_version_app
[filter:context]
paste.filter_factory = barbican.api.middleware.context:ContextMiddleware.factory
[filter:microversion]
paste.filter_factory = barbican.api.middleware.microversion:MicroversionMiddleware.factory
[filter:audit]
paste.filter_factory = keystonemiddleware.audit:filter_factory
audit_map_file = {places.directory}/api_audit_map.conf
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
[filter:cors]
paste.filter_factory = oslo_middleware.cors:filter_factory
oslo_config_project = barbican
[filter:request_id]
paste.filter_factory = oslo_middleware.request_id:RequestId.factory
[filter:http_proxy_to_wsgi]
paste.filter_factory = oslo_middleware:HTTPProxyToWSGI.factory
"""


AUDIT_MAP = """\
[DEFAULT]
target_endpoint_type = key-manager
[custom_actions]
acl/get = read
[path_keywords]
secrets=
containers=
orders=
cas=None
quotas=
project-quotas=
[service_endpoints]
key-manager = service/security/keymanager
"""
