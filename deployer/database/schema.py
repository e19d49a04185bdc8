"""The tables: what was asked for, seen and done, as names, references and dates. Never a value.

The truth about what exists is in Barbican, about what should exist in ``vps`` and ``blueprint``. Everything
about versions and dates is a copy of what Barbican told, kept so that what is due is found without asking it.

A change here needs a step in ``migrations/versions``: a test compares the two on both databases.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    DDL,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    MetaData,
    Table,
    event,
    text,
)

from deployer.database.words import ID, NAME, SENTENCE, Document, Json, Moment, Number, Words

WANTED: Final = ("present", "revoked", "retired")
"""What a VPS is to be: with its secrets; with nobody's access; gone."""
SEALING: Final = ("required", "off")
"""Whether each value of a VPS is sealed to its key. What was there before there were keys is ``off``."""
SECRET_STATES: Final = ("wanted", "current", "rotating")
"""There is no version yet; there is one and nothing to do; an open rotation has it."""
REASONS: Final = ("first", "schedule", "ordered", "compromised", "rollback", "restored")
ROTATION_STATES: Final = ("wanted", "listed", "arrived", "given-up")
OPERATION_STATES: Final = ("wanted", "running", "done", "failed")
BACKUP_STATES: Final = ("begun", "written", "proved", "failed")

metadata: Final = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_name)s_fk",
        "uq": "%(table_name)s_%(column_0_name)s_uq",
        "ck": "%(table_name)s_%(constraint_name)s",
    }
)


def one_of(column: str, words: tuple[str, ...]) -> CheckConstraint:
    """Return the rule that a column has one of these words."""
    return CheckConstraint(f"{column} IN ({', '.join(map(repr, words))})", name=column)


def _text(name: str, most: int = NAME) -> Column[str]:
    """Return a column of words that has some, or none (empty), but is never missing."""
    return Column(name, Words(most), nullable=False, server_default="")


def _count(name: str) -> Column[int]:
    return Column(name, Number(), nullable=False, server_default="0")


def _moment(name: str) -> Column[float]:
    """Return a column for when something happens or happened; NULL where it has not."""
    return Column(name, Moment())


def _at(name: str) -> Column[float]:
    return Column(name, Moment(), nullable=False)


deployment: Final = Table(
    "deployment",
    metadata,
    Column("one", Number(), primary_key=True, autoincrement=False),
    Column("id", Words(ID), nullable=False),
    _at("created_at"),
    CheckConstraint("one = 1", name="one"),
)

blueprint: Final = Table(
    "blueprint",
    metadata,
    Column("name", Words(NAME), primary_key=True),
    Column("digest", Words(ID), nullable=False),
    Column("text", Document, nullable=False),
    _at("applied_at"),
    _text("applied_by"),
)

vps: Final = Table(
    "vps",
    metadata,
    Column("id", Words(ID), primary_key=True),
    Column("blueprint", Words(NAME), ForeignKey("blueprint.name"), nullable=False),
    Column("labels", Json, nullable=False, server_default="{}"),
    _count("wave"),
    Column("wanted", Words(16), nullable=False, server_default="present"),
    _text("user_id", ID),
    _text("container", ID),
    Column("granted_to", Words(ID)),  # NULL: not known; empty: nobody
    Column("state", Words(32), nullable=False, server_default="new"),
    _at("created_at"),
    # When the worker looks at it next. A VPS that was woken comes before every date: minus its urgency.
    _at("next_look"),
    _count("urgent"),
    _text("lease_owner"),
    Column("lease_until", Moment(), nullable=False, server_default="0"),
    _count("failures"),
    _text("last_error", SENTENCE),
    _text("served", ID),
    _moment("served_at"),
    _moment("looked_at"),
    Column("sealing", Words(16), nullable=False, server_default="off"),
    one_of("wanted", WANTED),
    one_of("sealing", SEALING),
    Index("vps_next_look", "next_look"),
    Index("vps_blueprint", "blueprint"),
    Index("vps_state", "state", "id"),
    Index("vps_failing", "id", sqlite_where=text("failures > 0"), postgresql_where=text("failures > 0")),
)

secret: Final = Table(
    "secret",
    metadata,
    Column("vps", Words(ID), ForeignKey("vps.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Words(NAME), primary_key=True),
    Column("kind", Words(32), nullable=False),
    Column("grp", Words(NAME), nullable=False),
    Column("current", Words(ID)),
    _moment("created"),
    _moment("due"),
    _moment("work_at"),
    Column("state", Words(16), nullable=False, server_default="wanted"),
    _text("remark", SENTENCE),
    one_of("state", SECRET_STATES),
    # What rotates already is not looked at again and again while it waits: an outage leaves many of them.
    Index(
        "secret_work_at",
        "work_at",
        sqlite_where=text("state = 'current'"),
        postgresql_where=text("state = 'current'"),
    ),
    Index("secret_due", "due"),
)

# A version outlives its VPS here, so that what was replaced by what can be told afterwards.
version: Final = Table(
    "version",
    metadata,
    Column("uuid", Words(ID), primary_key=True),
    Column("vps", Words(ID), nullable=False),
    Column("name", Words(NAME), nullable=False),
    _at("created"),
    _text("rotation", ID),
    _text("kind", 32),
    _text("slot"),
    _at("first_seen"),
    _moment("gone_at"),
    Column("sequence", Number(big=True), nullable=False, server_default="0"),
    _text("sealed_to", ID),
    Index("version_vps", "vps", "name"),
)

rotation: Final = Table(
    "rotation",
    metadata,
    Column("id", Words(ID), primary_key=True),
    Column("vps", Words(ID), nullable=False),
    Column("grp", Words(NAME), nullable=False),
    Column("names", Json, nullable=False),
    Column("reason", Words(16), nullable=False),
    _text("asked_by"),
    _text("note", SENTENCE),
    _moment("due"),
    _at("wanted_at"),
    _moment("begun_at"),
    _moment("listed_at"),
    _moment("arrived_at"),
    _moment("ended_at"),
    Column("state", Words(16), nullable=False, server_default="wanted"),
    _count("attempts"),
    _text("last_error", SENTENCE),
    Column("targets", Json, nullable=False, server_default="{}"),
    one_of("reason", REASONS),
    one_of("state", ROTATION_STATES),
    Index(
        "rotation_open",
        "vps",
        "grp",
        unique=True,
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
    Index(
        "rotation_open_due",
        "due",
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
    Index("rotation_due", "due"),
    Index("rotation_vps", "vps", "wanted_at"),
)

operation: Final = Table(
    "operation",
    metadata,
    Column("id", Words(ID), primary_key=True),
    Column("kind", Words(32), nullable=False),
    Column("target", Words(NAME), nullable=False),
    Column("asked_by", Words(NAME), nullable=False),
    Column("idempotency_key", Words(NAME)),
    _text("request_digest", ID),
    Column("state", Words(16), nullable=False, server_default="wanted"),
    _at("created_at"),
    _at("changed_at"),
    _count("done"),
    _count("total"),
    Column("detail", Json, nullable=False, server_default="{}"),
    _text("error", SENTENCE),
    one_of("state", OPERATION_STATES),
    Index("operation_key", "asked_by", "idempotency_key", unique=True),
    Index("operation_created", "created_at"),
    Index(
        "operation_open",
        "created_at",
        sqlite_where=text("state IN ('wanted', 'running')"),
        postgresql_where=text("state IN ('wanted', 'running')"),
    ),
)

history: Final = Table(
    "history",
    metadata,
    Column("id", Number(big=True), primary_key=True),
    _at("at"),
    Column("actor", Words(NAME), nullable=False),
    Column("action", Words(ID), nullable=False),
    _text("vps", ID),
    _text("name"),
    _text("rotation", ID),
    Column("detail", Json, nullable=False, server_default="{}"),
    Index("history_vps", "vps", "id"),
    Index("history_at", "at"),
)

check_result: Final = Table(
    "check_result",
    metadata,
    Column("id", Number(big=True), primary_key=True),
    _at("at"),
    Column("name", Words(NAME), nullable=False),
    Column("passed", Number(), nullable=False),
    Column("detail", Json, nullable=False, server_default="{}"),
    Index("check_result_name", "name", "id"),
)

backup: Final = Table(
    "backup",
    metadata,
    Column("id", Words(ID), primary_key=True),
    _at("begun_at"),
    _moment("ended_at"),
    Column("state", Words(16), nullable=False, server_default="begun"),
    Column("destination", Words(SENTENCE), nullable=False),
    _text("object", SENTENCE),
    _text("digest", ID),
    Column("size", Number(big=True), nullable=False, server_default="0"),
    _count("vpses"),
    _count("secrets"),
    _moment("proved_at"),
    _text("error", SENTENCE),
    one_of("state", BACKUP_STATES),
    Index("backup_begun", "begun_at"),
)

# History is what an auditor reads: a defect of ours, or a hasty hand, must not change it, or end it early.
KEPT_S: Final = 365 * 86400
_REFUSAL: Final = "history is only appended to"
_TOO_YOUNG: Final = "history is kept for a year at least"
TRIGGERS: Final[dict[str, tuple[str, ...]]] = {
    "sqlite": (
        (
            "CREATE TRIGGER history_no_update BEFORE UPDATE ON history BEGIN "
            f"SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        ),
        (
            "CREATE TRIGGER history_no_delete BEFORE DELETE ON history "
            f"WHEN OLD.at > unixepoch() - {KEPT_S} BEGIN SELECT RAISE(ABORT, '{_TOO_YOUNG}'); END"
        ),
        (  # REPLACE deletes without asking the trigger above
            "CREATE TRIGGER history_no_replace BEFORE INSERT ON history WHEN EXISTS "
            "(SELECT 1 FROM history WHERE id = NEW.id) "
            "BEGIN SELECT RAISE(ABORT, 'history is only appended to'); END"
        ),
    ),
    "postgresql": (
        (
            "CREATE FUNCTION history_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$BEGIN RAISE EXCEPTION '{_REFUSAL}'; END$$"
        ),
        (
            "CREATE TRIGGER history_append_only BEFORE UPDATE OR TRUNCATE ON history "
            "FOR EACH STATEMENT EXECUTE FUNCTION history_append_only()"
        ),
        (
            "CREATE FUNCTION history_keep() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$BEGIN IF OLD.at > extract(epoch FROM now()) - {KEPT_S} "
            f"THEN RAISE EXCEPTION '{_TOO_YOUNG}'; END IF; RETURN OLD; END$$"
        ),
        ("CREATE TRIGGER history_keep BEFORE DELETE ON history FOR EACH ROW EXECUTE FUNCTION history_keep()"),
    ),
}
for _dialect, _statements in TRIGGERS.items():
    for _statement in _statements:
        _ddl = DDL(_statement)  # type: ignore[no-untyped-call]
        event.listen(history, "after_create", _ddl.execute_if(dialect=_dialect))
