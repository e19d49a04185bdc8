"""History that is older than a year may be deleted, and nothing younger: by no way that SQL has."""

from __future__ import annotations

from typing import Final

from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"


def upgrade() -> None:
    """Put other triggers in the place of those of the first form."""
    dialect = op.get_bind().dialect.name
    for statement in _SQLITE if dialect == "sqlite" else _POSTGRESQL:
        op.execute(statement)


_SQLITE: Final = (
    "DROP TRIGGER history_no_delete",
    (
        "CREATE TRIGGER history_no_delete BEFORE DELETE ON history "
        "WHEN OLD.at > unixepoch() - 31536000 "
        "BEGIN SELECT RAISE(ABORT, 'history is kept for a year at least'); END"
    ),
    # REPLACE deletes without asking the trigger above
    (
        "CREATE TRIGGER history_no_replace BEFORE INSERT ON history "
        "WHEN EXISTS (SELECT 1 FROM history WHERE id = NEW.id) "
        "BEGIN SELECT RAISE(ABORT, 'history is only appended to'); END"
    ),
)
_POSTGRESQL: Final = (
    "DROP TRIGGER history_append_only ON history",
    (
        "CREATE TRIGGER history_append_only BEFORE UPDATE OR TRUNCATE ON history "
        "FOR EACH STATEMENT EXECUTE FUNCTION history_append_only()"
    ),
    (
        "CREATE FUNCTION history_keep() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN IF OLD.at > extract(epoch FROM now()) - 31536000 "
        "THEN RAISE EXCEPTION 'history is kept for a year at least'; END IF; RETURN OLD; END$$"
    ),
    ("CREATE TRIGGER history_keep BEFORE DELETE ON history FOR EACH ROW EXECUTE FUNCTION history_keep()"),
)
