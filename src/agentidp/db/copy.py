"""Every row of every table from one engine to the other, and the proof that they arrived.

Knows the tables from `schema.metadata` only: a new one is copied from its first day. Says nothing about who may be writing meanwhile.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from agentidp.core import limits
from agentidp.core.caller import SYSTEM
from agentidp.core.errors import Conflict
from agentidp.db import walls
from agentidp.db.backup import Progress
from agentidp.db.migrate import HEAD, revision_of, upgrade
from agentidp.db.schema import metadata


@dataclass(slots=True)
class Content:
    """How many rows, and the sum of their hashes: the same for the same rows in whatever order."""

    rows: int = 0
    digest: int = 0

    def add(self, row: sa.Row[Any], json_columns: list[int]) -> None:
        values = [json.loads(value) if index in json_columns and value is not None else value for index, value in enumerate(row)]
        text = json.dumps(values, sort_keys=True, default=bytes.hex)  # PostgreSQL keeps JSON in an order of its own
        self.rows += 1
        self.digest = (self.digest + int.from_bytes(hashlib.sha256(text.encode()).digest())) % 2**256


def copy_rows(source: sa.Connection, target: sa.Connection, progress: Progress) -> dict[str, Content]:
    """Copy everything into the target, which has this release's schema or none, and no rows. Returns what each table holds.

    Inside the callers' transactions: if this raises, the target is as it was. Raises Conflict when the source is of another release, when
    the target holds rows, and when what is read back from the target is not what was read from the source.
    """
    revision = revision_of(source)
    if revision != HEAD:
        raise Conflict(f"the database to copy is at revision {revision}, this release is at {HEAD}; run: agentidp db upgrade")
    upgrade(target)
    for connection in (source, target):
        walls.enter(connection, SYSTEM)
    taken = [table.name for table in metadata.sorted_tables if target.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first()]
    if taken:
        raise Conflict(f"the database to copy to holds rows already: {', '.join(taken)}")
    total = 2 * sum(source.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in metadata.sorted_tables)
    done, copied = 0, {}
    for table in metadata.sorted_tables:
        content = copied[table.name] = Content()
        insert, names = _insert(table, target)
        for rows in _batches(source, table, content):
            target.execute(insert, [dict(zip(names, row, strict=True)) for row in rows])
            progress(done := done + len(rows), total)
    for table in metadata.sorted_tables:
        arrived = Content()
        for rows in _batches(target, table, arrived):
            progress(done := done + len(rows), total)
        if arrived != copied[table.name]:
            raise Conflict(f"{table.name}: {copied[table.name].rows} rows were copied, but what arrived is not the same; nothing was kept")
    return copied


def _batches(connection: sa.Connection, table: sa.Table, content: Content) -> Iterator[list[sa.Row[Any]]]:
    """All rows, some at a time, JSON as text; each is added to the content."""
    columns = [sa.cast(column, sa.Text).label(column.name) if _is_json(column) else column for column in table.columns]
    json_columns = [index for index, column in enumerate(table.columns) if _is_json(column)]
    found = connection.execute(sa.select(*columns).execution_options(yield_per=limits.COPY_ROWS))
    for partition in found.partitions():
        rows = list(partition)
        for row in rows:
            content.add(row, json_columns)
        yield rows


def _insert(table: sa.Table, target: sa.Connection) -> tuple[sa.Insert, list[str]]:
    """The statement and the names of its parameters, in the order of the columns. The text of JSON goes in as it is."""
    insert = sa.insert(sa.table(table.name, *(sa.column(column.name, sa.Text if _is_json(column) else column.type) for column in table.columns)))
    names = {column.name: f"text_{column.name}" if _is_json(column) else column.name for column in table.columns}
    json_type = postgresql.JSONB if target.dialect.name == "postgresql" else sa.Text
    texts = {column: sa.cast(sa.bindparam(name, type_=sa.Text), json_type) for column, name in names.items() if column != name}
    return insert.values(texts), list(names.values())


def _is_json(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.JSON)
