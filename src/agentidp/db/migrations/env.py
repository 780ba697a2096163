"""alembic's entry point: runs on the connection that `db.migrate` hands over, never opens one."""

from typing import Any

from alembic import context

from agentidp.db import walls
from agentidp.db.schema import metadata

_connection = context.config.attributes["connection"]
_partitions = walls.partitions(_connection)


def _is_compared(item: Any, name: str, kind: str, *_: object) -> bool:
    """Partitions are made as time goes by, and an index may be of one engine only."""
    return name not in _partitions if kind == "table" else item.info.get("dialect", _connection.dialect.name) == _connection.dialect.name


context.configure(
    connection=_connection,
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
    include_object=_is_compared,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
