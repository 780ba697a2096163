"""The history by months, on PostgreSQL: `audit_events` has a partition for each, by the time in the id of an event.

What is asked by cursor or date touches the months that it is about, and a month that nobody keeps any longer is dropped, which costs nothing.
The first partition holds everything up to the end of the month in which the database was made or migrated. What no other takes, because
a clock was wrong, goes to the `REST`: nothing is lost there, and it is purged row by row.

Partitions belong to the login role, which alone can make and drop them. A tenant cannot name them: see `db.walls`.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from agentidp.core import limits
from agentidp.core.ids import first_id
from agentidp.db import walls
from agentidp.db.schema import audit_events
from agentidp.db.unit import Tx

log = logging.getLogger(__name__)

REST = f"{audit_events.name}_rest"
_LOCK = 0x4167_656E_7449_6451  # one process at a time, for the length of its transaction
_BOUNDS = re.compile(r"FOR VALUES FROM \((?:MINVALUE|'(?P<first>[0-9a-f-]{36})')\) TO \('(?P<end>[0-9a-f-]{36})'\)")


@dataclass(frozen=True, slots=True)
class Month:
    """A partition: of the ids from `first` on, of all smaller ones for None, and before `end`."""

    name: str
    first: str | None
    end: str

    def covers(self, other: "Month") -> bool:
        return (self.first is None or (other.first is not None and self.first <= other.first)) and other.end <= self.end


def list_months(connection: sa.Connection) -> list[Month]:
    """All partitions but the rest, the oldest first; none on SQLite."""
    bounds = walls.partitions(connection)
    found = ((name, _BOUNDS.fullmatch(text)) for name, text in bounds.items())
    return sorted((Month(name, match["first"], match["end"]) for name, match in found if match), key=lambda month: month.end)


def prepare(connection: sa.Connection, now: int) -> None:
    """Make what is missing of the rest, this month and the next ones, as the owner of the table. Does nothing on SQLite.

    A month of which the rest holds an event already has to stay there.
    """
    if connection.dialect.name != "postgresql":
        return
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    if REST not in walls.partitions(connection):
        _make(connection, REST, "DEFAULT")
    for month in _coming(now):
        there = list_months(connection)
        if not there:
            first = Month(month.name.replace(audit_events.name, f"{audit_events.name}_until"), None, month.end)
            _make(connection, first.name, f"FOR VALUES FROM (MINVALUE) TO ('{first.end}')")
        elif not any(one.covers(month) for one in there):
            _unless_the_rest_has_it(connection, month)


def prepare_months(tx: Tx) -> None:
    """`prepare` in a unit of work, which does not wait for long readers: months are made long before anybody needs them."""
    if tx.connection.dialect.name == "postgresql":
        _become_owner(tx)
        prepare(tx.connection, tx.now)


def hold_still(tx: Tx) -> None:
    """Nobody reads or writes the history until the transaction ends. Fails if that cannot be had at once."""
    tx.connection.exec_driver_sql(f"SET LOCAL lock_timeout = {limits.PARTITION_LOCK_MS}")
    tx.connection.exec_driver_sql(f"LOCK TABLE ONLY {audit_events.name} IN ACCESS EXCLUSIVE MODE")


def drop(tx: Tx, month: Month) -> None:
    _become_owner(tx)
    tx.connection.exec_driver_sql(f"DROP TABLE {month.name}")


def _become_owner(tx: Tx) -> None:
    """The login role, which owns the tables and sees no row. For the rest of the transaction."""
    tx.connection.exec_driver_sql(f"SET LOCAL lock_timeout = {limits.PARTITION_LOCK_MS}")
    tx.connection.exec_driver_sql("SET LOCAL ROLE NONE")


def _coming(now: int) -> Iterator[Month]:
    begin = datetime.fromtimestamp(now / 1000, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    for _ in range(limits.PARTITIONS_AHEAD + 1):
        end = begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
        yield Month(f"{audit_events.name}_{begin:%Y_%m}", *(first_id(int(at.timestamp()) * 1000) for at in (begin, end)))
        begin = end


def _unless_the_rest_has_it(connection: sa.Connection, month: Month) -> None:
    try:
        with connection.begin_nested():
            _make(connection, month.name, f"FOR VALUES FROM ('{month.first}') TO ('{month.end}')")
    except sa.exc.IntegrityError as error:
        if getattr(error.orig, "sqlstate", None) != "23514":  # check_violation, of the condition that there is nothing of the month in the rest
            raise
        log.warning("a clock was wrong: events of a coming month are there already, so it gets no partition", extra={"partition": month.name})


def _make(connection: sa.Connection, name: str, bounds: str) -> None:
    """Made apart and then attached, which stops nobody who writes to another month. Indexes of the table are made with it, but for a unique one."""
    connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE {audit_events.name} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    connection.exec_driver_sql(f"CREATE UNIQUE INDEX {name}_seq ON {name} (organization_id, seq) WHERE seq IS NOT NULL")
    walls.close(connection, name)
    connection.exec_driver_sql(f"ALTER TABLE {audit_events.name} ATTACH PARTITION {name} {bounds}")
