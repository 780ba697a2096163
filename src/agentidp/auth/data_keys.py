"""Data keys: under them every secret in the database is sealed, and the master key wraps them. Rotating the master key wraps them anew.

Whoever adds a text column of sealed values names it `sealed_…` and seals with the place (table, column, primary key); nothing else is to do.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from agentidp.auth.master_keys import MasterKeys, WrappedKey
from agentidp.core import limits
from agentidp.core.caller import SYSTEM, Caller
from agentidp.core.errors import Conflict, WrongSettings
from agentidp.core.secrets import Sealer, new_master_key
from agentidp.db.schema import data_keys, metadata, signing_keys
from agentidp.db.unit import Database, Tx

log = logging.getLogger(__name__)

SEALED_COLUMNS = tuple(
    column for table in metadata.sorted_tables for column in table.c if column.name.startswith("sealed_") and isinstance(column.type, sa.Text)
)


@dataclass(frozen=True, slots=True)
class Held:
    """How many values of a column are under one key. `data_key` is None for those right under the master key."""

    column: str
    data_key: str | None
    master_key: str
    count: int


async def open_sealer(database: Database, master_keys: MasterKeys) -> Sealer:
    """The sealer with every data key of the database; the first one is made here. Raises WrongSettings when a key does not open."""
    if not await database.read(list_data_keys, SYSTEM):
        await _require_all(database, master_keys)
        first = await asyncio.to_thread(master_keys.current.wrap, new_master_key())
        await database.write(insert_data_key, SYSTEM, first)  # unless another process was quicker
    wrapped = await database.read(list_data_keys, SYSTEM)
    return Sealer(*await asyncio.to_thread(lambda: [master_keys.unwrap(key) for key in wrapped]), *master_keys.local())


async def _require_all(database: Database, master_keys: MasterKeys) -> None:
    """Before data keys there was only the master key: a wrong one must not wrap the first of them."""
    for held in await database.read(list_held, SYSTEM):
        if not any(wrapper.holds(held.master_key) for wrapper in (master_keys.current, *master_keys.others)):
            raise WrongSettings(f"master_key: the database is sealed under {held.master_key}, this one is {master_keys.current.name}")


async def refresh_sealer(database: Database, load: Callable[[], MasterKeys], sealer: Sealer) -> None:
    """Bring the sealer of a running process up to date. A data key that it cannot open is logged; what is sealed under the others still opens."""
    wrapped = await database.read(list_data_keys, SYSTEM)
    try:
        for key in wrapped:
            if not sealer.has(key.key_id):
                sealer.add(await asyncio.to_thread(load().unwrap, key))
    except WrongSettings as error:
        log.error("a data key cannot be opened", extra={"reason": str(error)})  # noqa: TRY400 - the reason is all there is to know
        return
    sealer.key_id = wrapped[0].key_id


async def rewrap(database: Database, master_keys: MasterKeys, caller: Caller, *, new_data_key: bool = False) -> int:
    """Wrap every data key with the current master key, in one transaction; with `new_data_key`, make one that seals from now on.

    Returns how many are wrapped otherwise than before. Raises WrongSettings, or Conflict when another process does the same.
    """
    before = await database.read(list_data_keys, caller)

    def wrap() -> list[WrappedKey]:
        return [master_keys.current.wrap(master_keys.unwrap(key)) for key in before]

    after = await asyncio.to_thread(wrap)
    fresh = await asyncio.to_thread(master_keys.current.wrap, new_master_key()) if new_data_key else None
    changed = [new for old, new in zip(before, after, strict=True) if new.master_key != old.master_key]
    if changed or fresh:
        await database.write(store_wrapped, caller, before, changed, fresh)
    return len(changed)


async def reseal(database: Database, sealer: Sealer, caller: Caller) -> int:
    """Seal under the current data key what is under another, or right under a master key. Returns how many values; may be interrupted at will."""
    total = 0
    while done := await database.write(reseal_some, caller, sealer):
        total += done
    return total


def list_data_keys(tx: Tx) -> list[WrappedKey]:
    """All of them, the current one first."""
    rows = tx.all(sa.select(data_keys).order_by(data_keys.c.status, data_keys.c.created_at, data_keys.c.key_id))
    return [WrappedKey(row.key_id, row.master_key, row.wrapped_key) for row in rows]


def insert_data_key(tx: Tx, fresh: WrappedKey) -> bool:
    """Returns False when there is a current one."""
    values = {"key_id": fresh.key_id, "master_key": fresh.master_key, "wrapped_key": fresh.text}
    return tx.insert_new(data_keys, status="current", created_at=tx.now, **values)


def store_wrapped(tx: Tx, before: list[WrappedKey], changed: list[WrappedKey], fresh: WrappedKey | None) -> None:
    """The data keys are wrapped as in `changed`, and `fresh` is the current one. Raises Conflict unless they were as in `before`."""
    tx.all(sa.select(data_keys.c.key_id).with_for_update())
    if list_data_keys(tx) != before:
        raise Conflict("Another process rotates the master key at this moment.")
    for key in changed:
        tx.run(sa.update(data_keys).where(data_keys.c.key_id == key.key_id).values(master_key=key.master_key, wrapped_key=key.text))
        tx.record("key.rotated", "key", key.key_id, masterKey=key.master_key)
    if fresh is not None:
        tx.run(sa.update(data_keys).where(data_keys.c.status == "current").values(status="retired"))
        insert_data_key(tx, fresh)
        tx.record("key.rotated", "key", fresh.key_id, masterKey=fresh.master_key, newDataKey=True)


def reseal_some(tx: Tx, sealer: Sealer, *, rows_max: int = limits.RESEAL_ROWS_MAX) -> int:
    """Seal up to `rows_max` values anew. Returns how many; 0 when all are under the current data key."""
    done = 0
    for column in SEALED_COLUMNS:
        table, keys = column.table, list(column.table.primary_key)
        others = sa.select(*keys, column).where(column.not_like(f"v1.{sealer.key_id}.%")).limit(rows_max - done).with_for_update()
        for row in tx.run(others).mappings().all():
            place = (table.name, column.name, *(str(row[key]) for key in keys))
            fresh = sealer.seal(sealer.unseal(row[column], *place), *place)
            tx.run(sa.update(table).where(*(key == row[key] for key in keys)).values({column.name: fresh}))
            done += 1
    return done


def list_held(tx: Tx) -> list[Held]:
    """What is under which key: the data keys themselves, then every column of sealed values."""
    master_key_of = {key.key_id: key.master_key for key in list_data_keys(tx)}
    found = [Held("data_keys.wrapped_key", key_id, master_key, 1) for key_id, master_key in master_key_of.items()]
    for column in SEALED_COLUMNS:
        sealed_under = sa.func.substr(column, 4, 8).label("sealed_under")
        counts = sa.select(sealed_under, sa.func.count().label("total")).where(column.is_not(None)).group_by(sealed_under).order_by(sealed_under)
        for row in tx.all(counts):
            key_id = row.sealed_under
            data_key = key_id if key_id in master_key_of else None
            found.append(Held(f"{column.table.name}.{column.name}", data_key, master_key_of.get(key_id, f"master key {key_id}"), row.total))
    return found


def master_keys_of_signing_keys(tx: Tx) -> dict[str, str]:
    """The name of the master key behind every signing key."""
    master_key_of = {key.key_id: key.master_key for key in list_data_keys(tx)}
    sealed_under = sa.func.substr(signing_keys.c.sealed_private_key, 4, 8).label("sealed_under")
    rows = tx.all(sa.select(signing_keys.c.key_id, sealed_under))
    return {row.key_id: master_key_of.get(row.sealed_under, f"master key {row.sealed_under}") for row in rows}
