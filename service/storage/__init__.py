"""The only home of SQL: asyncpg, named queries, group commit, migrations, the embedded PostgreSQL."""
