"""A database as it was before there were data keys: every value right under the master key."""

import sqlalchemy as sa
from tests.db.opened import opened

from agentidp.auth.data_keys import SEALED_COLUMNS, open_sealer, reseal_some
from agentidp.auth.master_keys import LocalKey, MasterKeys
from agentidp.core.caller import SYSTEM
from agentidp.core.secrets import Sealer
from agentidp.db.schema import data_keys
from agentidp.db.unit import Database, Tx


async def make_old(database: Database, master_key: str) -> None:
    """Seal right under the master key what is under data keys now, and forget those."""
    sealer = await open_sealer(database, MasterKeys(LocalKey(master_key)))
    sealer.key_id = Sealer(master_key).key_id

    def seal_directly(tx: Tx) -> int:
        count = reseal_some(tx, sealer)
        tx.run(sa.delete(data_keys))
        return count

    assert await database.write(seal_directly, SYSTEM) >= len(SEALED_COLUMNS)


async def make_old_at(url: str, master_key: str) -> None:
    """The same for a database that nobody has open."""
    async with opened(url) as database:
        await make_old(database, master_key)
