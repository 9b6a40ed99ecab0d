"""Alembic environment. Each version is a plain SQL file, forward only, additive first."""
