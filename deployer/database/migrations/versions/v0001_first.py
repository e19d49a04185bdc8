"""The first form: every table, and the triggers that keep history as it was written."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None

BIG: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite numbers rows by INTEGER alone


def upgrade() -> None:
    """Make them."""
    _deployment()
    _blueprint()
    _vps()
    _secret()
    _version()
    _rotation()
    _operation()
    _history()
    _check_result()
    _backup()
    if op.get_bind().dialect.name == "sqlite":
        _append_only_sqlite()
    else:
        _append_only_postgresql()


def _deployment() -> None:
    op.create_table(
        "deployment",
        sa.Column("one", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.CheckConstraint("one = 1", name=op.f("deployment_one")),
        sa.PrimaryKeyConstraint("one", name=op.f("deployment_pk")),
    )


def _blueprint() -> None:
    op.create_table(
        "blueprint",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("applied_at", sa.Float(53), nullable=False),
        sa.Column("applied_by", sa.String(200), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("blueprint_pk")),
    )


def _vps() -> None:
    op.create_table(
        "vps",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("blueprint", sa.String(200), nullable=False),
        sa.Column("labels", sa.Text(), server_default="{}", nullable=False),
        sa.Column("wave", sa.Integer(), server_default="0", nullable=False),
        sa.Column("wanted", sa.String(16), server_default="present", nullable=False),
        sa.Column("user_id", sa.String(64), server_default="", nullable=False),
        sa.Column("container", sa.String(64), server_default="", nullable=False),
        sa.Column("granted_to", sa.String(64), nullable=True),
        sa.Column("state", sa.String(32), server_default="new", nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("next_look", sa.Float(53), nullable=False),
        sa.Column("urgent", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_owner", sa.String(200), server_default="", nullable=False),
        sa.Column("lease_until", sa.Float(53), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.String(2000), server_default="", nullable=False),
        sa.Column("served", sa.String(64), server_default="", nullable=False),
        sa.Column("served_at", sa.Float(53), nullable=True),
        sa.Column("looked_at", sa.Float(53), nullable=True),
        sa.CheckConstraint("wanted IN ('present', 'revoked', 'retired')", name=op.f("vps_wanted")),
        sa.ForeignKeyConstraint(["blueprint"], ["blueprint.name"], name=op.f("vps_blueprint_fk")),
        sa.PrimaryKeyConstraint("id", name=op.f("vps_pk")),
    )
    op.create_index("vps_blueprint", "vps", ["blueprint"], unique=False)
    op.create_index(
        "vps_failing",
        "vps",
        ["id"],
        unique=False,
        sqlite_where=sa.text("failures > 0"),
        postgresql_where=sa.text("failures > 0"),
    )
    op.create_index("vps_next_look", "vps", ["next_look"], unique=False)
    op.create_index("vps_state", "vps", ["state", "id"], unique=False)


def _secret() -> None:
    op.create_table(
        "secret",
        sa.Column("vps", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("grp", sa.String(200), nullable=False),
        sa.Column("current", sa.String(64), nullable=True),
        sa.Column("created", sa.Float(53), nullable=True),
        sa.Column("due", sa.Float(53), nullable=True),
        sa.Column("work_at", sa.Float(53), nullable=True),
        sa.Column("state", sa.String(16), server_default="wanted", nullable=False),
        sa.CheckConstraint("state IN ('wanted', 'current', 'rotating')", name=op.f("secret_state")),
        sa.ForeignKeyConstraint(["vps"], ["vps.id"], name=op.f("secret_vps_fk"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("vps", "name", name=op.f("secret_pk")),
    )
    op.create_index("secret_due", "secret", ["due"], unique=False)
    op.create_index(
        "secret_work_at",
        "secret",
        ["work_at"],
        unique=False,
        sqlite_where=sa.text("state = 'current'"),
        postgresql_where=sa.text("state = 'current'"),
    )


def _version() -> None:
    op.create_table(
        "version",
        sa.Column("uuid", sa.String(64), nullable=False),
        sa.Column("vps", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("rotation", sa.String(64), server_default="", nullable=False),
        sa.Column("kind", sa.String(32), server_default="", nullable=False),
        sa.Column("slot", sa.String(200), server_default="", nullable=False),
        sa.Column("first_seen", sa.Float(53), nullable=False),
        sa.Column("gone_at", sa.Float(53), nullable=True),
        sa.PrimaryKeyConstraint("uuid", name=op.f("version_pk")),
    )
    op.create_index("version_vps", "version", ["vps", "name"], unique=False)


def _rotation() -> None:
    op.create_table(
        "rotation",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("vps", sa.String(64), nullable=False),
        sa.Column("grp", sa.String(200), nullable=False),
        sa.Column("names", sa.Text(), nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("asked_by", sa.String(200), server_default="", nullable=False),
        sa.Column("note", sa.String(2000), server_default="", nullable=False),
        sa.Column("due", sa.Float(53), nullable=True),
        sa.Column("wanted_at", sa.Float(53), nullable=False),
        sa.Column("begun_at", sa.Float(53), nullable=True),
        sa.Column("listed_at", sa.Float(53), nullable=True),
        sa.Column("arrived_at", sa.Float(53), nullable=True),
        sa.Column("ended_at", sa.Float(53), nullable=True),
        sa.Column("state", sa.String(16), server_default="wanted", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.String(2000), server_default="", nullable=False),
        sa.Column("targets", sa.Text(), server_default="{}", nullable=False),
        sa.CheckConstraint(
            "reason IN ('first', 'schedule', 'ordered', 'compromised', 'rollback', 'restored')",
            name=op.f("rotation_reason"),
        ),
        sa.CheckConstraint(
            "state IN ('wanted', 'listed', 'arrived', 'given-up')", name=op.f("rotation_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("rotation_pk")),
    )
    op.create_index("rotation_due", "rotation", ["due"], unique=False)
    op.create_index(
        "rotation_open",
        "rotation",
        ["vps", "grp"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "rotation_open_due",
        "rotation",
        ["due"],
        unique=False,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index("rotation_vps", "rotation", ["vps", "wanted_at"], unique=False)


def _operation() -> None:
    op.create_table(
        "operation",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("target", sa.String(200), nullable=False),
        sa.Column("asked_by", sa.String(200), nullable=False),
        sa.Column("idempotency_key", sa.String(200), nullable=True),
        sa.Column("request_digest", sa.String(64), server_default="", nullable=False),
        sa.Column("state", sa.String(16), server_default="wanted", nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("changed_at", sa.Float(53), nullable=False),
        sa.Column("done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("detail", sa.Text(), server_default="{}", nullable=False),
        sa.Column("error", sa.String(2000), server_default="", nullable=False),
        sa.CheckConstraint("state IN ('wanted', 'running', 'done', 'failed')", name=op.f("operation_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("operation_pk")),
    )
    op.create_index("operation_created", "operation", ["created_at"], unique=False)
    op.create_index("operation_key", "operation", ["asked_by", "idempotency_key"], unique=True)
    op.create_index(
        "operation_open",
        "operation",
        ["created_at"],
        unique=False,
        sqlite_where=sa.text("state IN ('wanted', 'running')"),
        postgresql_where=sa.text("state IN ('wanted', 'running')"),
    )


def _history() -> None:
    op.create_table(
        "history",
        sa.Column("id", BIG, nullable=False),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("vps", sa.String(64), server_default="", nullable=False),
        sa.Column("name", sa.String(200), server_default="", nullable=False),
        sa.Column("rotation", sa.String(64), server_default="", nullable=False),
        sa.Column("detail", sa.Text(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("history_pk")),
    )
    op.create_index("history_at", "history", ["at"], unique=False)
    op.create_index("history_vps", "history", ["vps", "id"], unique=False)


def _check_result() -> None:
    op.create_table(
        "check_result",
        sa.Column("id", BIG, nullable=False),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("passed", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("check_result_pk")),
    )
    op.create_index("check_result_name", "check_result", ["name", "id"], unique=False)


def _backup() -> None:
    op.create_table(
        "backup",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("begun_at", sa.Float(53), nullable=False),
        sa.Column("ended_at", sa.Float(53), nullable=True),
        sa.Column("state", sa.String(16), server_default="begun", nullable=False),
        sa.Column("destination", sa.String(2000), nullable=False),
        sa.Column("object", sa.String(2000), server_default="", nullable=False),
        sa.Column("digest", sa.String(64), server_default="", nullable=False),
        sa.Column("size", BIG, server_default="0", nullable=False),
        sa.Column("vpses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("secrets", sa.Integer(), server_default="0", nullable=False),
        sa.Column("proved_at", sa.Float(53), nullable=True),
        sa.Column("error", sa.String(2000), server_default="", nullable=False),
        sa.CheckConstraint("state IN ('begun', 'written', 'proved', 'failed')", name=op.f("backup_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("backup_pk")),
    )
    op.create_index("backup_begun", "backup", ["begun_at"], unique=False)


def _append_only_sqlite() -> None:
    for what in ("update", "delete"):
        op.execute(
            f"CREATE TRIGGER history_no_{what} BEFORE {what.upper()} ON history "
            "BEGIN SELECT RAISE(ABORT, 'history is only appended to'); END"
        )


def _append_only_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION history_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION 'history is only appended to'; END$$"
    )
    op.execute(
        "CREATE TRIGGER history_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON history "
        "FOR EACH STATEMENT EXECUTE FUNCTION history_append_only()"
    )
