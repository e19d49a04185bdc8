"""Values that are sealed to the key of a VPS: which VPSs have that, and to which key a version is sealed."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"


def upgrade() -> None:
    """What is there has no key, and goes on as it was."""
    # with its rule in one statement: SQLite adds none later but by making the table anew, and to drop the
    # former one would delete what refers to it
    op.execute(
        "ALTER TABLE vps ADD COLUMN sealing VARCHAR(16) DEFAULT 'off' NOT NULL "
        "CONSTRAINT vps_sealing CHECK (sealing IN ('required', 'off'))"
    )
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("version", sa.Column("sequence", big, server_default="0", nullable=False))
    op.add_column("version", sa.Column("sealed_to", sa.String(64), server_default="", nullable=False))
