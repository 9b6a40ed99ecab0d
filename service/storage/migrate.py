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
PATIENCE = "2s"
"""How long a change waits for a table. All who come after it wait as well, and a caller 4 s at most: so it gives up."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    return config


def migrate(dsn: str, *, to: str = "head", patience: str = PATIENCE) -> str:
    """Run the pending migrations and return the schema's version. Blocking; safe while other replicas do the same.

    Raises:
        ConfigurationError: the database has a schema that this release does not know, a table is in use for longer than
            `patience`, or PostgreSQL refuses.
    """
    config = _config()
    config.attributes["patience"] = patience
    # By psycopg itself, for SQLAlchemy's URLs know no second host. PgBouncer in transaction mode would keep prepared
    # statements for whoever comes next.
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn, prepare_threshold=None))
    try:
        with engine.connect() as connection:
            _check_known(MigrationContext.configure(connection).get_current_revision(), config)
            connection.rollback()  # of the reading: the versions get a transaction of their own
            config.attributes["connection"] = connection
            command.upgrade(config, to)
            connection.commit()
            return MigrationContext.configure(connection).get_current_revision() or ""
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise ConfigurationError(
                "A long transaction uses a table that the migration must change, so it gave up and changed nothing. "
                "End that transaction (pg_stat_activity shows it), or run the migration again when it is over."
            ) from error
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
