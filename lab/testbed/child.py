"""Runs Keystone or Barbican inside the server environment (Keystone 27-30, Barbican 20-23, cheroot).

Started by `lab/testbed/service.py` with that environment's interpreter, so it imports nothing of ours. Three
streams are the whole contract with the parent:

* stdin: one line of JSON with the parameters (they hold passwords, so they are never arguments or
  environment), then nothing. Its end means that the parent is gone: this process ends at once.
* stdout: one line of JSON with the seconds that each phase took, written when the port is listening; then it
  is closed. Its end without a line means that the start failed.
* stderr: the log.
"""

import contextlib
import json
import os
import signal
import sqlite3
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
# Barbican's legacy roles and its operator's role; Keystone's own bootstrap makes admin, member and reader.
BARBICAN_ROLES = ("creator", "observer", "audit", "key-manager:service-admin")


class Phases:
    """Seconds spent in each phase of the start, in order."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """Close `phase`; the next one starts now."""
        now = time.perf_counter()
        self.seconds[phase] = round(now - self._since, 3)
        self._since = now


def end_with_parent() -> None:
    """End this process when stdin ends. No clean-up: sqlite recovers from its own journal."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def keystone_app(parameters: dict[str, Any], phases: Phases) -> Any:
    """Return Keystone's WSGI application; a new database gets its schema, accounts and catalogue first."""
    # The imports are in the function because each child needs one of the two and both are slow.
    import keystone.server  # noqa: PLC0415 (see above)
    from keystone.common import sql  # noqa: PLC0415
    from keystone.common.sql import upgrades  # noqa: PLC0415
    from keystone.server.flask import application, core  # noqa: PLC0415

    directory = Path(parameters["directory"])
    phases.end("import")
    is_new = not (directory / "keystone.db").exists()
    keystone.server.configure(config_files=[str(directory / "keystone.conf")])
    # as MySQL and PostgreSQL do: else what a deleted user had stays, and meets the next one with its number
    sql.core.enable_sqlite_foreign_key()
    if is_new:
        # write-ahead log: else Keystone 27, which keeps a reading transaction open, finds its own database
        # locked when it commits after a look-up (a bare 500, whatever the timeout)
        with contextlib.closing(sqlite3.connect(directory / "keystone.db")) as database:
            database.execute("PRAGMA journal_mode = WAL")
        upgrades.offline_sync_database_to_version()
        phases.end("schema")
    _, app = keystone.server.setup_backends(
        startup_application_fn=lambda: application.application_factory("public")
    )
    app = core.setup_app_middleware(app)
    phases.end("application")
    if is_new:
        bootstrap(parameters)
        phases.end("bootstrap")
    return app


def bootstrap(parameters: dict[str, Any]) -> None:
    """Do what `keystone-manage bootstrap` does, in this process: that command alone would cost 2.8 s."""
    from keystone.cmd import bootstrap as keystone_bootstrap  # noqa: PLC0415 (only for a new database)

    # keystone_app has loaded the back ends, and loading them twice registers every provider twice.
    keystone_bootstrap.backends.load_backends = lambda: None
    boot = keystone_bootstrap.Bootstrapper()
    boot.admin_username = boot.project_name = boot.admin_role_name = "admin"
    boot.admin_password = parameters["admin_password"]
    boot.service_name = "keystone"
    boot.region_id = parameters["region"]
    # keystonemiddleware looks for the internal endpoint: without it every Barbican call is a bare 500.
    boot.public_url = boot.internal_url = boot.admin_url = parameters["auth_url"]
    boot.immutable_roles = True
    boot.bootstrap()
    register_barbican(
        keystone_bootstrap.PROVIDERS, parameters, grants=(boot.service_role_id, boot.admin_role_id)
    )


def register_barbican(providers: Any, parameters: dict[str, Any], grants: tuple[str, ...]) -> None:
    """Create Barbican's service account, its roles and its catalogue entry."""
    project_id, service_id, endpoint_id = (uuid.uuid4().hex for _ in range(3))
    in_domain = {"enabled": True, "domain_id": "default"}
    providers.resource_api.create_project(project_id, {"id": project_id, "name": "service", **in_domain})
    user = providers.identity_api.create_user(
        {"name": "barbican", "password": parameters["service_password"], **in_domain}
    )
    for role_id in grants:
        providers.assignment_api.add_role_to_user_and_project(user["id"], project_id, role_id)
    for name in BARBICAN_ROLES:
        role_id = uuid.uuid4().hex
        providers.role_api.create_role(role_id, {"id": role_id, "name": name})
    providers.catalog_api.create_service(
        service_id, {"id": service_id, "name": "barbican", "type": "key-manager", "enabled": True}
    )
    providers.catalog_api.create_endpoint(
        endpoint_id,
        {
            "id": endpoint_id,
            "service_id": service_id,
            "interface": "public",
            "region_id": parameters["region"],
            "url": parameters["barbican_url"],
            "enabled": True,
        },
    )


def barbican_app(parameters: dict[str, Any], phases: Phases) -> Any:
    """Return Barbican's WSGI application; it finds its configuration below $HOME and makes its tables."""
    import barbican.api.app  # noqa: PLC0415 (see keystone_app)
    from paste import deploy  # noqa: PLC0415

    assert barbican.api.app  # imported to be timed: the paste file refers to it
    phases.end("import")
    app = deploy.loadapp(f"config:{parameters['directory']}/barbican-api-paste.ini")
    phases.end("application")
    return app


def serve(app: Any, parameters: dict[str, Any], phases: Phases, ready: int) -> None:
    """Serve `app` until SIGTERM; tells the parent on descriptor `ready` as soon as the port is listening."""
    from cheroot import wsgi  # noqa: PLC0415 (after the import phase has been timed)
    from cheroot.ssl.builtin import BuiltinSSLAdapter  # noqa: PLC0415

    server = wsgi.Server((HOST, parameters["port"]), app, numthreads=parameters["threads"], server_name=HOST)
    if parameters["certificate"]:
        server.ssl_adapter = BuiltinSSLAdapter(parameters["certificate"], parameters["private_key"])
    server.prepare()
    phases.end("listen")
    os.write(ready, json.dumps(phases.seconds).encode() + b"\n")
    os.close(ready)
    try:
        server.serve()
    finally:
        os._exit(1)


def main() -> None:
    """Run the service named by the only argument."""
    name = sys.argv.pop()  # Keystone parses sys.argv as oslo.config options: leave nothing there
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the parent, which ends us in order
    ready = os.dup(1)
    os.dup2(2, 1)  # the schema migration prints to stdout, which is the parent's: send that to the log
    phases = Phases()
    with open(0, "rb", buffering=0, closefd=False) as stdin:  # unbuffered: the rest is end_with_parent's
        parameters = json.loads(stdin.readline())
    threading.Thread(target=end_with_parent, daemon=True).start()
    make_app = {"keystone": keystone_app, "barbican": barbican_app}[name]
    serve(make_app(parameters, phases), parameters, phases, ready)


if __name__ == "__main__":
    main()
