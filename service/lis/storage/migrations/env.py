"""Alembic's environment. `Database.migrate` passes its connection; the `alembic` command is not used."""

from alembic import context

from service.lis.storage.tables import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
with context.begin_transaction():
    context.run_migrations()
