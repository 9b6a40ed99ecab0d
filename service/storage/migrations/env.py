"""Alembic's entry: runs every pending version in one transaction, under a lock that other replicas wait for."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

LOCK = 0x534D5347  # "SMSG": any constant of our own would do.


def migrate(connection: Connection) -> None:
    """Run the pending versions on `connection`.

    The lock is taken before Alembic reads the current version, so a second replica that waited finds nothing to do.
    A transaction lock works through PgBouncer in transaction mode too; a session lock excludes nobody there.
    """
    context.configure(connection=connection)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        patience = context.config.attributes["patience"]
        connection.execute(text("SELECT set_config('lock_timeout', :patience, true)"), {"patience": patience})
        context.run_migrations()


migrate(context.config.attributes["connection"])
