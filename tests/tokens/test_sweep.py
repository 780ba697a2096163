"""A revocation is remembered for as long as any process may take the token for unexpired, and no longer."""

from typing import Any

import pytest
import sqlalchemy as sa
from tests.db.opened import NOBODY, Turned, insert_organization, with_database

from agentidp.core import limits
from agentidp.core.ids import new_id
from agentidp.db.schema import revoked_tokens
from agentidp.db.unit import Database, Tx
from agentidp.tokens.actions import sweep_revoked_tokens

LEEWAY = limits.ISSUED_AT_LEEWAY_SECONDS


@pytest.mark.parametrize(("seconds_after_expiry", "swept"), [(-1, 0), (0, 0), (LEEWAY - 1, 0), (LEEWAY, 1)])
def test_forgets_what_has_expired_by_every_clock(database_url: str, seconds_after_expiry: int, swept: int) -> None:
    clock = Turned()
    expires_at = clock.now

    def revoke(tx: Tx) -> None:
        organization_id = new_id(tx.now)
        insert_organization(tx, organization_id, "one")
        ids = {"organization_id": organization_id, "token_id": new_id(tx.now), "agent_id": new_id(tx.now)}
        tx.run(sa.insert(revoked_tokens).values(**ids, revoked_at=tx.now, expires_at=expires_at))

    async def work(database: Database) -> Any:
        await database.write(revoke, NOBODY)
        clock.forward(seconds=seconds_after_expiry)
        return await database.write(sweep_revoked_tokens, NOBODY)

    assert with_database(database_url, work, clock=clock) == swept
