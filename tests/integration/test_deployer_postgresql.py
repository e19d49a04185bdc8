"""The kind ``postgresql`` and a real server: two roles in turn, least rights, no password in its log."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg2
import pytest
from psycopg2 import extensions

from common.names import SecretName, Version
from deployer.config.zones import zone
from deployer.core.blueprint import parse
from deployer.core.options import PostgresqlOptions
from deployer.kinds import postgresql, postgresql_link
from deployer.kinds.kind import Facts, KindError
from deployer.kinds.postgresql import Postgresql
from deployer.kinds.postgresql_link import Server
from deployer.kinds.postgresql_setup import setup_sql
from deployer.kinds.value import Value
from lab.testbed.fakes.tls import tls_context
from lab.testbed.postgresql import SUPERUSER
from lab.testbed.postgresql import Postgresql as PostgresqlServer
from lab.testbed.running import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROTATOR_PASSWORD: Final = "rotator-canary-77c1"
NAME: Final = SecretName("DATABASE_URL")
URL: Final = "postgresql://{role}:{password}@/{database}?host={host}&port={port}"


def uuid(number: int) -> Version:
    """Return a version."""
    return Version(f"00000000-0000-4000-8000-{number:012}")


class Bed:
    """A server with the setup applied for one VPS, and the kind as the worker has it."""

    def __init__(self, server: PostgresqlServer, port: int = 5432) -> None:
        self.server, self.port = server, port
        self.socket = str(server.directory)
        self.facts = self.facts_of(["app_a", "app_b"])
        self.kind = Postgresql({"db1": self.as_rotator()})
        self.sql("DROP SCHEMA IF EXISTS rotation CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        for role in ("app_a", "app_b", "app_owner", "bystander", "rotation_definer", "vps_rotator"):
            with contextlib.suppress(psycopg2.errors.UndefinedObject):
                self.sql(f"DROP OWNED BY {role}; DROP ROLE {role}")
        self.sql("CREATE ROLE bystander LOGIN")
        self.set_up()

    def facts_of(self, roles: list[str], vps_id: str = "vps-1", database: str = "") -> Facts:
        """Return the facts of a secret that uses these roles; its slot is the first one."""
        written = ", ".join(f'"{role}"' for role in roles)
        text = (
            f'[{NAME}]\nkind = "postgresql"\nserver = "db1"\nroles = [{written}]\n'
            f'template = "{URL}"\nrotate = "30d"\n{database}'
        )
        spec = parse(text.encode(), Path("b.toml"), zone).secrets[NAME]
        return Facts(vps_id, NAME, roles[0], uuid(1), "r-1", spec)

    def as_rotator(self) -> Server:
        """Return the server as deployer.toml would name it."""
        return Server("db1", self.socket, self.port, "postgres", "vps_rotator", ROTATOR_PASSWORD.encode)

    def set_up(self, **changes: Any) -> None:
        """Do what the administrator does once."""
        keys = {"database": "postgres", "owners": {"vps-1": "app_owner"}} | changes
        self.sql(setup_sql(self.facts.options(PostgresqlOptions), **keys))
        self.sql(f"ALTER ROLE vps_rotator PASSWORD '{ROTATOR_PASSWORD}'")
        self.sql("GRANT CREATE, USAGE ON SCHEMA public TO app_owner")

    def sql(self, text: str, user: str = SUPERUSER, password: str = "") -> list[tuple[Any, ...]]:
        """Run SQL on a connection of its own; return the rows of the last statement."""
        link = psycopg2.connect(
            host=self.socket, port=self.port, dbname="postgres", user=user, password=password
        )
        try:
            link.autocommit = True
            with link.cursor() as cursor:
                cursor.execute(text)
                return cursor.fetchall() if cursor.description else []
        finally:
            link.close()

    def turn(self, number: int) -> Facts:
        """Return the facts of the rotation with this number: the roles take turns."""
        slots = self.facts.spec.slots
        listed = frozenset({uuid(number - 1)})
        return replace(self.facts, slot=slots[number % 2], version=uuid(number), listed=listed)

    def rotate(self, number: int) -> str:
        """Make a version and let the server take it, all steps; return the value."""
        facts = self.turn(number)
        self.kind.preflight(facts)
        with self.kind.make(facts) as value:
            self.kind.apply(facts, value)
            self.kind.test(facts, value)
            return bytes(value.reveal()).decode()

    def labels(self) -> dict[str, str | None]:
        """Return the comment of each role."""
        label = "SELECT rolname, shobj_description(oid, 'pg_authid') FROM pg_roles"
        return dict(self.sql(f"{label} WHERE rolname IN ('app_a', 'app_b')"))

    def verifiers(self) -> dict[str, str | None]:
        """Return what the server keeps of each role's password."""
        return dict(
            self.sql("SELECT rolname, rolpassword FROM pg_authid WHERE rolname IN ('app_a', 'app_b')")
        )


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    """A server that logs every statement."""
    with PostgresqlServer({"log_statement": "all", "log_connections": "on"}) as made:
        yield made


@pytest.fixture
def bed(server: PostgresqlServer) -> Bed:
    """Everything as new."""
    return Bed(server)


def password_of(url: str) -> str:
    """Return the password inside a value."""
    (found,) = re.findall(r"://\w+:([A-Za-z0-9_-]{43})@", url)
    return str(found)


def works(url: str) -> bool:
    """Tell whether the application can log in with a value."""
    try:
        psycopg2.connect(url).close()
    except psycopg2.OperationalError:
        return False
    return True


class Application(threading.Thread):
    """Reads and writes as an application does: a pool that follows the value, and a session of the start."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.queries = 0
        self.failures: list[str] = []
        self._done = threading.Event()
        self._served: dict[str, threading.Event] = {}

    def run(self) -> None:
        """Go on until the end."""
        oldest = psycopg2.connect(self.url)
        links: dict[str, Any] = {}
        oldest.autocommit = True
        while not self._done.is_set():
            url = self.url
            try:
                link = links.get(url) or psycopg2.connect(url)
                link.autocommit = True
                links[url] = link
                fresh = psycopg2.connect(url)
                fresh.autocommit = True
                for one in (oldest, link, fresh):
                    with one.cursor() as cursor:
                        cursor.execute("INSERT INTO t DEFAULT VALUES")
                        cursor.execute("SELECT count(*) FROM t")
                    self.queries += 2
                fresh.close()
            except psycopg2.Error as error:
                self.failures.append(str(error))
            self._served.setdefault(url, threading.Event()).set()
        for link in (oldest, *links.values()):
            link.close()

    def take(self, url: str) -> None:
        """Use another value from now on; returns when it does."""
        served = self._served.setdefault(url, threading.Event())
        self.url = url
        assert served.wait(60)

    def stop(self) -> None:
        """End it."""
        self._done.set()
        self.join()


def test_rotations_in_turn_while_a_client_reads_and_writes_without_one_failed_query(bed: Bed) -> None:
    """The former value works until it is retired, after the client has the new one."""
    former = bed.rotate(1)
    link = psycopg2.connect(former)
    with link, link.cursor() as cursor:
        cursor.execute("CREATE TABLE t (n serial)")
    link.close()
    client = Application(former)
    client.start()
    try:
        for number in range(2, 9):
            new = bed.rotate(number)
            assert works(former)
            client.take(new)
            bed.kind.retire(bed.turn(number - 1))
            assert not works(former)
            former = new
    finally:
        client.stop()
    assert client.failures == []
    assert client.queries > 40
    assert bed.labels()["app_a"] == f"secret {uuid(8)} of vps-1/DATABASE_URL"
    assert bed.verifiers()["app_b"] is None


def test_what_either_role_makes_belongs_to_their_owner(bed: Bed) -> None:
    """So each may change what the other has made; both are the owner as soon as they log in."""
    for number in (1, 2):
        link = psycopg2.connect(bed.rotate(number))
        with link, link.cursor() as cursor:
            cursor.execute("SELECT current_user")
            assert cursor.fetchone() == ("app_owner",)
            cursor.execute(f"CREATE TABLE t{number} (n int); ALTER TABLE t1 ADD COLUMN c{number} int")
        link.close()
    owners = bed.sql("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    assert owners == [("t1", "app_owner"), ("t2", "app_owner")]


def test_the_servers_log_has_no_password(bed: Bed) -> None:
    """With log_statement = all the verifier is in it, for which nobody can log in."""
    passwords = [password_of(bed.rotate(number)) for number in (1, 2, 3)]
    bed.kind.lock(bed.facts)
    log = bed.server.log.read_text()
    assert "SCRAM-SHA-256$4096:" in log
    assert [password for password in passwords if password in log] == []
    assert "vps-secrets-deployer" not in passwords


def test_applying_again_changes_the_salt_only(bed: Bed) -> None:
    """After a crash, or an answer that was lost, the same value may be applied again."""
    facts = bed.turn(1)
    with bed.kind.make(facts) as value:
        for _ in range(2):
            bed.kind.apply(facts, value)
            bed.kind.test(facts, value)
            assert works(bytes(value.reveal()).decode())


STEPS: Final = ("preflight", "make", "apply", "test")


@pytest.mark.parametrize("last", STEPS)
def test_a_worker_killed_after_any_step_leaves_the_role_in_use_alone(bed: Bed, last: str) -> None:
    """Its value is lost with it; the next worker makes another one for the same role."""
    current = bed.rotate(1)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:  # a worker that stops after a step, and waits to be killed
        facts, kind = bed.turn(2), bed.kind
        kind.preflight(facts)
        value = kind.make(facts) if last != "preflight" else None
        if value is not None and last in {"apply", "test"}:
            kind.apply(facts, value)
        if value is not None and last == "test":
            kind.test(facts, value)
        os.write(writer, b"x")
        signal.pause()
    assert os.read(reader, 1) == b"x"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    assert works(current)
    applied = last in {"apply", "test"}
    assert bed.labels()["app_a"] == (f"secret {uuid(2)} of vps-1/DATABASE_URL" if applied else None)
    facts = replace(bed.turn(2), version=uuid(3))
    bed.kind.preflight(facts)
    with bed.kind.make(facts) as value:
        bed.kind.apply(facts, value)
        bed.kind.test(facts, value)
        assert works(bytes(value.reveal()).decode())
    assert works(current)


def test_the_server_crashes_after_it_took_a_value(bed: Bed) -> None:
    """Verifier and label come back together; meanwhile the steps fail with words and work later."""
    current, facts = bed.rotate(1), bed.turn(2)
    with bed.kind.make(facts) as value:
        bed.kind.apply(facts, value)
        before = (bed.labels(), bed.verifiers())
        bed.server.stop(signal.SIGQUIT)
        for step in (bed.kind.preflight, bed.kind.retire, bed.kind.lock):
            with pytest.raises(KindError, match="nothing listens there") as caught:
                step(facts)
            assert not caught.value.permanent
        impatient = Postgresql({"db1": bed.as_rotator()}, clock=iter([0.0, 99.0]).__next__)
        with pytest.raises(KindError, match="nothing listens there"):
            impatient.test(facts, value)
        bed.server.start()
        assert (bed.labels(), bed.verifiers()) == before
        bed.kind.test(facts, value)
    assert works(current)


def test_password_and_label_change_together_or_not_at_all(bed: Bed) -> None:
    """What is wrong with either refuses both."""
    bed.rotate(1)
    before = (bed.labels(), bed.verifiers())
    good = bed.verifiers()["app_b"]
    right = f"secret {uuid(3)} of vps-1/A"
    for verifier, label in (
        ("cleartext-canary", right),
        (None, right),
        (good, "hello"),
        (good, None),
    ):
        link = psycopg2.connect(
            host=bed.socket, dbname="postgres", user="vps_rotator", password=ROTATOR_PASSWORD
        )
        with pytest.raises(psycopg2.errors.InvalidParameterValue), link, link.cursor() as cursor:
            cursor.execute("SELECT rotation.set_verifier('app_a', %s, %s)", (verifier, label))
        link.close()
    assert (bed.labels(), bed.verifiers()) == before


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER ROLE app_a PASSWORD 'x'",
        "ALTER ROLE vps_rotator CREATEROLE",
        "GRANT app_owner TO vps_rotator",
        "SET ROLE app_a",
        "SET ROLE rotation_definer",
        "COMMENT ON ROLE app_a IS 'x'",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'deployer'",
        "SELECT * FROM public.t",
        "INSERT INTO rotation.managed VALUES ('bystander')",
        "CREATE TABLE rotation.x (n int)",
        "CREATE OR REPLACE FUNCTION rotation.check_role(which name) RETURNS void LANGUAGE sql AS ''",
        "SELECT rotation.set_verifier('bystander', '{verifier}', '{label}')",
        "SELECT rotation.set_verifier('deployer', '{verifier}', '{label}')",
        "SELECT rotation.set_verifier('vps_rotator', '{verifier}', '{label}')",
        "SELECT rotation.set_verifier('app_owner', '{verifier}', '{label}')",
        "SELECT rotation.set_verifier('rotation_definer', '{verifier}', '{label}')",
        "SELECT rotation.set_verifier(NULL, '{verifier}', '{label}')",
        "SELECT rotation.lock_role('deployer', '{label}')",
        "SELECT rotation.clear_password('bystander', '{label}')",
        "SELECT rotation.end_sessions('deployer')",
        "SELECT rotation.end_sessions('bystander')",
        "SELECT rotation.lock_role('bystander', '{label}')",
    ],
)
def test_the_workers_role_can_do_nothing_else(bed: Bed, statement: str) -> None:
    """Whoever takes over the worker can't go further on this server."""
    bed.rotate(1)
    bed.sql("CREATE TABLE public.t (n int)")
    verifier, label = bed.verifiers()["app_b"], f"secret {uuid(9)} of vps-1/A"
    with pytest.raises((psycopg2.errors.InsufficientPrivilege, psycopg2.errors.RaiseException)):
        bed.sql(statement.format(verifier=verifier, label=label), "vps_rotator", ROTATOR_PASSWORD)


def test_nobody_else_can_call_the_functions(bed: Bed) -> None:
    """Not the application either, nor a stranger who can log in."""
    bed.sql("ALTER ROLE bystander PASSWORD 'stranger-pw'")
    app = password_of(bed.rotate(1))
    for user, password in (("bystander", "stranger-pw"), ("app_b", app)):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            bed.sql("SELECT rotation.end_sessions('app_a')", user, password)


def test_a_table_of_a_stranger_can_not_stand_in_for_the_servers_own(bed: Bed) -> None:
    """The functions look names up in pg_catalog first, and in no schema that somebody can write."""
    bed.sql("GRANT CREATE ON SCHEMA public TO PUBLIC; ALTER ROLE vps_rotator SET search_path = public")
    bed.sql(
        "CREATE VIEW public.pg_roles AS SELECT 'x'::name AS rolname;"
        "CREATE FUNCTION public.format(text, name, text) RETURNS text LANGUAGE sql AS"
        " $$SELECT 'ALTER ROLE vps_rotator SUPERUSER'$$",
        "vps_rotator",
        ROTATOR_PASSWORD,
    )
    works_still = bed.rotate(1)
    assert works(works_still)
    assert bed.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'vps_rotator'") == [(False,)]


def _sql(text: str) -> Callable[[Bed], None]:
    def change(bed: Bed) -> None:
        bed.sql(text)

    return change


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (_sql("ALTER ROLE vps_rotator CREATEROLE"), "more rights than it needs"),
        (_sql("ALTER ROLE vps_rotator SUPERUSER"), "more rights than it needs"),
        (_sql("DROP FUNCTION rotation.end_sessions(name)"), "can't execute the functions"),
        (
            _sql("REVOKE EXECUTE ON FUNCTION rotation.set_verifier(name, text, text) FROM vps_rotator"),
            "can't execute the functions",
        ),
        (_sql("DROP TABLE rotation.managed"), "rotation.managed is missing"),
        (_sql("REVOKE USAGE ON SCHEMA rotation FROM vps_rotator"), "refused"),
        (_sql("DROP ROLE app_a"), "app_a does not exist"),
        (_sql("DELETE FROM rotation.managed WHERE role = 'app_b'"), "app_b is not on the list"),
        (_sql("COMMENT ON ROLE app_a IS 'the shop'"), "not ours"),
        (_sql(f"COMMENT ON ROLE app_a IS 'secret {uuid(7)} of vps-2/DATABASE_URL'"), "not ours"),
        (_sql("ALTER ROLE app_b NOLOGIN"), "may not log in, and not by our doing"),
        (_sql("ALTER ROLE app_b RESET role"), "does not become an owner"),
        (_sql("REVOKE app_owner FROM app_a"), "does not become an owner"),
        (_sql("GRANT bystander TO app_a; ALTER ROLE app_a SET role = 'bystander'"), "different owners"),
        (_sql("ALTER ROLE vps_rotator PASSWORD 'another'"), "password was refused"),
        (_sql("ALTER ROLE vps_rotator NOLOGIN"), "may not log in"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_made(
    bed: Bed, wrong: Callable[[Bed], None], told: str
) -> None:
    """In words of ours, with nothing that the server said."""
    wrong(bed)
    with pytest.raises(KindError, match=told) as caught:
        bed.kind.preflight(bed.facts)
    assert caught.value.step == "preflight"
    assert_silent(caught.value)


def assert_silent(error: BaseException) -> None:
    """Nothing that hangs on an error holds what a server said, or a password."""
    seen: list[BaseException] = []
    ahead: list[BaseException | None] = [error]
    while ahead:
        if (one := ahead.pop()) is not None and one not in seen:
            seen.append(one)
            ahead += [one.__cause__, one.__context__]
    assert not any(isinstance(one, psycopg2.Error) for one in seen)
    assert ROTATOR_PASSWORD not in repr([(one.args, one.__dict__) for one in seen])
    assert "FATAL" not in str(error)


def test_a_role_in_use_is_not_touched(bed: Bed) -> None:
    """Whatever the worker believes: its label names a secret that the container lists."""
    current = bed.rotate(1)
    mistaken = replace(bed.turn(1), version=uuid(2), listed=frozenset({uuid(1)}))
    with pytest.raises(KindError, match="is in use"):
        bed.kind.preflight(mistaken)
    with bed.kind.make(mistaken) as value, pytest.raises(KindError, match="is in use") as caught:
        bed.kind.apply(mistaken, value)
    assert caught.value.permanent
    assert works(current)


def test_a_password_that_does_not_work_is_told_after_the_deadline(bed: Bed) -> None:
    """Tried again until then: some servers need a moment."""
    facts, times = bed.turn(1), iter([0.0, 1.0, 2.0, 30.0])
    slept: list[float] = []
    kind = Postgresql({"db1": bed.as_rotator()}, clock=times.__next__, sleep=slept.append)
    with kind.make(facts) as value:
        with pytest.raises(KindError, match="password was refused") as caught:
            kind.test(facts, value)
        assert slept == [postgresql.PAUSE_S] * 2
        assert_silent(caught.value)


@contextlib.contextmanager
def first_line(bed: Bed, line: str) -> Iterator[None]:
    """Let the server have this line first in pg_hba.conf."""
    hba = bed.server.directory / "data/pg_hba.conf"
    before = hba.read_text()
    try:
        hba.write_text(line + before)
        bed.sql("SELECT pg_reload_conf()")
        yield
    finally:
        hba.write_text(before)
        bed.sql("SELECT pg_reload_conf()")


def told_by_a_test(bed: Bed, mark: str) -> KindError:
    """Return the error of a test that has this mark: the server reads its file when it gets to it."""
    kind = Postgresql({"db1": bed.as_rotator()})
    facts, end = bed.turn(1), time.monotonic() + 60
    with kind.make(facts) as value:
        kind.apply(facts, value)
        while time.monotonic() < end:
            try:
                kind.test(facts, value)  # works until then
            except KindError as error:
                if mark in str(error):
                    return error
    pytest.fail(f"was never told: {mark}")


NOT_SCRAM: Final = [("trust", "without its password"), ("reject", "rejects")]
if extensions.libpq_version() >= postgresql_link.REQUIRES_AUTH:
    NOT_SCRAM.append(("password", "asks for the password itself"))


@pytest.mark.parametrize(("method", "told"), NOT_SCRAM)
def test_a_server_that_does_not_ask_by_scram_is_told(bed: Bed, method: str, told: str) -> None:
    """Where it asks for nothing, a test proves nothing; where it asks in clear text, it would be told one."""
    with first_line(bed, f"local all app_b {method}\n"):
        assert told_by_a_test(bed, told).permanent


def test_without_a_newer_libpq_a_server_that_trusts_is_told_too(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian 12's libpq can't insist on SCRAM; then it is seen afterwards that no password was asked for."""
    monkeypatch.setattr(postgresql_link, "REQUIRES_AUTH", 999999)
    with first_line(bed, "local all app_b trust\n"):
        assert told_by_a_test(bed, "without its password").permanent


def test_an_emergency_locks_both_roles_and_ends_their_sessions(bed: Bed) -> None:
    """Nobody logs in with any value; the next rotation opens the role that it gives a new password."""
    values = [bed.rotate(1), bed.rotate(2)]
    links = [psycopg2.connect(value) for value in values]
    bed.kind.lock(bed.facts)
    for link in links:
        with pytest.raises(psycopg2.OperationalError), link.cursor() as cursor:
            cursor.execute("SELECT 1")
        link.close()
    assert [value for value in values if works(value)] == []
    assert set(bed.labels().values()) == {"locked of vps-1/DATABASE_URL"}
    bed.kind.lock(bed.facts)  # again: nothing more to do
    new = bed.rotate(3)
    assert works(new)
    assert bed.labels()["app_a"] == "locked of vps-1/DATABASE_URL"
    assert works(bed.rotate(4))


def test_a_retired_password_ends_and_who_is_logged_in_stays(bed: Bed) -> None:
    """Only if the role still has it: one that has got another meanwhile is left alone."""
    first = bed.rotate(1)
    link = psycopg2.connect(first)
    bed.rotate(2)
    bed.kind.retire(bed.turn(1))
    assert not works(first)
    with link.cursor() as cursor:
        cursor.execute("SELECT 1")
    link.close()
    third = bed.rotate(3)
    bed.kind.retire(bed.turn(1))  # late, and again
    assert works(third)


def test_each_vps_has_roles_of_its_own(bed: Bed) -> None:
    """With {vps} in their names, also one that SQL has to quote; and a database of its own."""
    vps = "VPS-prod.7"
    facts = bed.facts_of(["{vps}_a", "{vps}_b"], vps, 'database = "{vps}_db"\n')
    owner = "owner-'of\"7"
    text = setup_sql(facts.options(PostgresqlOptions), database="postgres", owners={vps: owner})
    for _ in range(2):  # it may be run again
        bed.sql(text)
    bed.sql(f'CREATE DATABASE "{vps}_db"')
    try:
        bed.kind.preflight(facts)
        with bed.kind.make(facts) as value:
            bed.kind.apply(facts, value)
            bed.kind.test(facts, value)
            content = bytes(value.reveal()).decode()
        link = psycopg2.connect(content)
        assert link.info.dbname == f"{vps}_db"
        link.close()
        assert content.startswith(f"postgresql://{vps}_a:")
        with pytest.raises(KindError, match="none of the two roles"):
            bed.kind.preflight(replace(facts, slot="app_a"))
        with pytest.raises(KindError, match="longer than"):
            bed.kind.preflight(replace(facts, vps_id="x" * 64))
    finally:
        bed.sql(f'DROP DATABASE "{vps}_db"')
        bed.sql(f'DROP ROLE "{vps}_a", "{vps}_b", "owner-\'of""7"')


def test_a_value_of_another_template_is_refused(bed: Bed) -> None:
    """The blueprint was changed between two steps: nothing is applied."""
    with Value(b"canary-postgresql://app_b:x@/") as value:
        for step in (bed.kind.apply, bed.kind.test):
            with pytest.raises(KindError, match="does not fit the template") as caught:
                step(bed.turn(1), value)
            assert "canary" not in str(caught.value)


def test_a_server_that_deployer_toml_does_not_name(bed: Bed) -> None:
    """Nor one whose password can't be read."""
    with pytest.raises(KindError, match="named db1"):
        Postgresql({}).preflight(bed.facts)
    with pytest.raises(KindError, match="no text"):
        Postgresql({"db1": replace(bed.as_rotator(), password=lambda: b"\xff")}).preflight(bed.facts)


@pytest.fixture(scope="module")
def over_tls() -> Iterator[tuple[Bed, Path]]:
    """A server that listens on loopback, with a certificate for "localhost"; the folder of its authority."""
    with tempfile.TemporaryDirectory(prefix="pg-tls-") as folder, socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        path = Path(folder)
        tls_context(path)
        certificate = str(path / "server.pem")
        settings = {"ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": certificate}
        settings |= {"listen_addresses": "127.0.0.1", "port": str(reservation.getsockname()[1])}
        made = PostgresqlServer(settings)
        owner = made.directory.stat()
        for one in (path, path / "server.pem"):
            os.chown(one, owner.st_uid, owner.st_gid)
        (path / "server.pem").chmod(0o600)
        with made:
            yield Bed(made, int(settings["port"])), path


def by_tcp(bed: Bed, ca_file: Path, host: str = "localhost") -> Postgresql:
    """Return the kind with the server's address on the network."""
    return Postgresql({"db1": replace(bed.as_rotator(), host=host, ca_file=ca_file)})


@pytest.mark.parametrize("required", [postgresql_link.REQUIRES_AUTH, 999999])
def test_over_the_network_the_server_proves_who_it_is(
    over_tls: tuple[Bed, Path], monkeypatch: pytest.MonkeyPatch, required: int
) -> None:
    """By its certificate and name; and it has to ask by SCRAM, with libpq's newer way or its older one."""
    monkeypatch.setattr(postgresql_link, "REQUIRES_AUTH", required)
    bed, folder = over_tls
    kind, number = by_tcp(bed, folder / "ca.pem"), 1 + (required == 999999)
    facts = bed.turn(number)
    kind.preflight(facts)
    with kind.make(facts) as value:
        kind.apply(facts, value)
        kind.test(facts, value)
        assert b"@/postgres?host=localhost&port=" in bytes(value.reveal())
    rotator = f"hostssl all {bed.as_rotator().user} 127.0.0.1/32"
    with first_line(bed, f"{rotator} password\n"):
        error = None
        end = time.monotonic() + 60
        while error is None:
            assert time.monotonic() < end
            try:
                kind.preflight(facts)  # works until the server has read its file
            except KindError as caught:
                error = caught
        assert error.permanent
        assert re.search("asks for the password itself|does not ask by scram", str(error))


@pytest.mark.parametrize(
    ("spoil", "host", "told"),
    [(True, "localhost", "not of ca_file"), (False, "127.0.0.1", "has another name")],
)
def test_another_server_gets_nothing(
    over_tls: tuple[Bed, Path], tmp_path: Path, *, spoil: bool, host: str, told: str
) -> None:
    """One with a certificate of a strange authority, or of another name."""
    bed, folder = over_tls
    tls_context(tmp_path)
    with pytest.raises(KindError, match=told) as caught:
        by_tcp(bed, (tmp_path if spoil else folder) / "ca.pem", host).preflight(bed.facts)
    assert caught.value.permanent
    assert_silent(caught.value)


def test_a_server_without_tls_gets_nothing(over_tls: tuple[Bed, Path]) -> None:
    """Even if everything else is right."""
    bed, folder = over_tls
    bed.server.stop()
    bed.server._settings["ssl"] = "off"
    bed.server.start()
    with pytest.raises(KindError, match="the server has no TLS") as caught:
        by_tcp(bed, folder / "ca.pem").preflight(bed.facts)
    assert caught.value.permanent
    assert_silent(caught.value)


def test_the_administrator_runs_what_the_command_prints(bed: Bed, tmp_path: Path) -> None:
    """For VPSs with roles of their own, twice; then each rotates. What can't be meant is refused before."""
    (tmp_path / "blueprints").mkdir()
    (tmp_path / "blueprints/b.toml").write_text(
        "".join(
            f'[{name}]\nkind = "postgresql"\nserver = "db1"\nroles = ["{role}_a", "{role}_b"]\n'
            f'template = "{URL}"\nrotate = "30d"\n'
            for name, role in (("OTHER", "app"), (NAME, "{vps}"))
        )
    )
    (tmp_path / "deployer.toml").write_text(
        f'[[postgresql]]\nname = "db1"\nhost = "{bed.socket}"\ndatabase = "postgres"\n'
    )

    def say(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deployer.cli", "blueprint", "sql", *words]
        command += ["--config", f"{tmp_path}/deployer.toml"]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    for words, refused in (
        (("b", "--vps", "vps-7"), "say --secret, one of OTHER, DATABASE_URL"),
        (("b", "--secret", str(NAME)), "say --vps for each"),
        (("b", "--secret", "OTHER", "--vps", "x", "--vps", "y"), "only one VPS can have them"),
        (("b", "--secret", "JWT"), "has no secret JWT of the kind postgresql"),
        (("c",), "there is no blueprint c"),
        (("b", "--secret", str(NAME), "--vps", "a b"), "is no id of a VPS"),
    ):
        done = say(*words)
        assert (done.returncode in {1, 2}, done.stdout, refused in done.stderr) == (True, "", True), words
    printed = say("b", "--secret", str(NAME), "--vps", "vps-7", "--vps", "vps-8")
    assert (printed.returncode, printed.stderr) == (0, "")
    psql = [
        str(bed.server.program("psql")),
        "--host",
        bed.socket,
        "--port",
        str(bed.port),
        "--username",
        SUPERUSER,
    ]
    try:
        for _ in range(2):
            ran = subprocess.run(
                [*psql, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "postgres"],
                input=printed.stdout,
                capture_output=True,
                text=True,
                check=False,
            )
            assert ran.returncode == 0, ran.stderr
        for vps in ("vps-7", "vps-8"):
            facts = bed.facts_of(["{vps}_a", "{vps}_b"], vps)
            bed.kind.preflight(facts)
            with bed.kind.make(facts) as value:
                bed.kind.apply(facts, value)
                bed.kind.test(facts, value)
                assert works(bytes(value.reveal()).decode())
    finally:
        for vps in ("vps-7", "vps-8"):
            bed.sql(f'DROP ROLE IF EXISTS "{vps}_a", "{vps}_b", "{vps}_owner"')
