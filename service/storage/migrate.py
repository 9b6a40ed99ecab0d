"""Brings a database to the newest schema."""

from __future__ import annotations

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

from service.errors import ConfigurationError

_HERE = Path(__file__).parent / "migrations"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    return config


def migrate(dsn: str) -> str:
    """Run the pending migrations and return the schema's version. Blocking; safe while other replicas do the same.

    Raises:
        ConfigurationError: the database has a schema that this release does not know, or PostgreSQL refuses.
    """
    config = _config()
    # By psycopg itself, for SQLAlchemy's URLs know no second host. PgBouncer in transaction mode would keep prepared
    # statements for whoever comes next.
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn, prepare_threshold=None))
    try:
        with engine.connect() as connection:
            _check_known(MigrationContext.configure(connection).get_current_revision(), config)
            connection.rollback()  # of the reading: the versions get a transaction of their own
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
            return MigrationContext.configure(connection).get_current_revision() or ""
    except DBAPIError as error:
        said = str(error.orig).strip().partition("\n")[0]
        raise ConfigurationError(f"The database of SMS_GATEWAY_DATABASE_URL refuses a migration: {said}") from error
    finally:
        engine.dispose()


def _check_known(version: str | None, config: Config) -> None:
    known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    if version is None or version in known:
        return
    if version > known[0]:
        raise ConfigurationError(f"The database has schema {version} of a newer release: use that release.")
    raise ConfigurationError(
        f"The database has schema {version} of a development version, from which no migration leads on. "
        "Give an empty database; of `dev`, `all` and scripts/run, remove the data folder (SMS_GATEWAY_DATA_DIR)."
    )
