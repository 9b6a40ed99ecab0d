"""Clients and keys remember the transaction that changed them last."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "v0003"
down_revision = "v0002"


def upgrade() -> None:
    """Run the SQL file beside this one."""
    sql = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})  # a % in it is only a %
