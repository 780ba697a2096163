"""What is read for a decision, kept, and forgotten."""

import pytest
import sqlalchemy as sa
from tests.db.opened import with_database
from tests.ledger.made import NOBODY, PLANS, Known, make_known

from agentidp.core import limits
from agentidp.db.schema import agents, credentials, organizations
from agentidp.db.unit import Database, Tx
from agentidp.ledger.snapshots import Snapshots, _keep


def test_a_snapshot_is_what_the_three_rows_say(database_url: str) -> None:
    async def work(database: Database) -> None:
        known = await make_known(database)
        await database.write(_change_all, NOBODY, known)
        found = await Snapshots(database, PLANS).find(known.organization_id, known.credential_id)
        assert found is not None
        assert (found.organization_id, found.agent_id, found.credential_id) == (known.organization_id, known.agent_id, known.credential_id)
        assert found.revisions == (11, 12, 13)
        assert (found.organization_status, found.agent_status, found.tokens_per_day_max, found.token_epoch) == ("suspended", "suspended", 7, 3)
        assert (found.agent_expires_at, found.revoked_at, found.expires_at) == (101, 102, 103)
        assert found.scopes == {"agents:read", "tokens:read"}
        secret = await Snapshots(database, PLANS).find_secret(known.key)
        assert secret is not None
        assert secret.credential == found

    with_database(database_url, work)


def test_its_limits_are_the_organizations_own_else_the_plans(database_url: str) -> None:
    async def work(database: Database) -> None:
        known = await make_known(database)
        mine = sa.update(organizations).where(organizations.c.organization_id == known.organization_id)
        for columns, tokens, calls in (
            ({"plan_tier": "enterprise"}, None, None),
            ({"plan_tier": "pro"}, 50_000, 50_000),
            ({"plan_tier": "free", "max_tokens_per_day": 5_000}, 5_000, 1_000),
            ({"plan_tier": "enterprise", "max_tokens_per_day": 0}, 0, None),
        ):
            await database.write(lambda tx, columns=columns: tx.run(mine.values(columns)) and None, NOBODY)
            cache = Snapshots(database, PLANS)
            found, secret = await cache.find(known.organization_id, known.credential_id), await cache.find_secret(known.key)
            assert found is not None
            assert secret is not None
            assert secret.credential == found
            assert (found.plan_tier, found.tokens_per_day_max, found.calls_per_day_max) == (columns["plan_tier"], tokens, calls)

    with_database(database_url, work)


def test_what_was_found_is_kept_until_it_is_forgotten(database_url: str) -> None:
    async def work(database: Database) -> None:
        known = await make_known(database)
        cache = Snapshots(database, PLANS)
        secret, snapshot = await cache.find_secret(known.key), await cache.find(known.organization_id, known.credential_id)
        assert secret is not None
        assert snapshot is not None
        await database.write(_change_all, NOBODY, known)
        assert await cache.find_secret(known.key) is secret
        assert await cache.find(known.organization_id, known.credential_id) is snapshot
        cache.forget(secret)
        cache.forget(snapshot)
        cache.forget(snapshot)  # also when it is gone already
        fresh, again = await cache.find_secret(known.key), await cache.find(known.organization_id, known.credential_id)
        assert fresh is not None
        assert again is not None
        assert fresh.credential.revisions == again.revisions == (11, 12, 13)

    with_database(database_url, work)


def test_what_does_not_exist_is_not_kept(database_url: str) -> None:
    async def work(database: Database) -> None:
        known = await make_known(database)
        cache = Snapshots(database, PLANS)
        assert await cache.find_secret("0" * 16) is None
        assert await cache.find(known.organization_id, known.agent_id) is None
        assert await cache.find(known.agent_id, known.credential_id) is None  # another organization's name for it
        assert not cache._by_key
        assert not cache._by_id

    with_database(database_url, work)


def test_the_oldest_goes_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOTS_MAX", 3)
    cache: dict[int, int] = {}
    for number in range(5):
        _keep(cache, number, number)
    assert list(cache) == [2, 3, 4]


def _change_all(tx: Tx, known: Known) -> None:
    changes = {
        organizations: {"revision": 11, "status": "suspended", "max_tokens_per_day": 7},
        agents: {"revision": 12, "status": "suspended", "expires_at": 101, "token_epoch": 3},
        credentials: {"revision": 13, "revoked_at": 102, "expires_at": 103},
    }
    for table, values in changes.items():
        tx.run(sa.update(table).where(table.c.organization_id == known.organization_id).values(**values))
