"""What Alembic runs: `Database.migrate` hands over its connection. `alembic` itself is never called by hand."""

from alembic import context

from service.lis.storage.tables import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
with context.begin_transaction():
    context.run_migrations()
