"""What a person has to do about a secret, where it does not come by itself."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0004"
down_revision: Final = "0003"


def upgrade() -> None:
    """Nothing, until the next look says something."""
    op.add_column("secret", sa.Column("remark", sa.String(2000), server_default="", nullable=False))
