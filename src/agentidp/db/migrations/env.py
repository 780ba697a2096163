"""alembic's entry point: runs on the connection that `db.migrate` hands over, never opens one."""

from alembic import context

from agentidp.db.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
