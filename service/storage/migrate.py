"""Brings a database to the newest schema."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

_HERE = Path(__file__).parent / "migrations"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    return config


def _sqlalchemy_url(dsn: str) -> str:
    return dsn.replace("postgresql://", "postgresql+psycopg://", 1).replace("postgres://", "postgresql+psycopg://", 1)


def migrate(dsn: str) -> str:
    """Run the pending migrations and return the schema's version. Blocking; safe while other replicas do the same.

    Raises:
        sqlalchemy.exc.OperationalError: the database cannot be reached.
    """
    config = _config()
    engine = create_engine(_sqlalchemy_url(dsn))
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
            return MigrationContext.configure(connection).get_current_revision() or ""
    finally:
        engine.dispose()


def newest_version() -> str:
    """The schema version that this code is written for."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""
