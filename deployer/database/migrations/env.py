"""Run by Alembic for each command: uses the connection, and the transaction, of whoever gave the command."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
