"""The life of a signing key: next, current, retired; published before it signs and as long as its tokens live; one of each, always."""

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from tests.db.opened import NOBODY, Turned, opened
from tests.serving import RunningServer
from tests.tenants import make_tenant

from agentidp.auth.keys import KeyStore, SigningKey, ensure_keys, is_rotation_due, list_keys, retire_key, rotate_keys
from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.core.errors import Conflict, NotFound
from agentidp.core.secrets import Sealer, new_master_key
from agentidp.db.schema import audit_events
from agentidp.db.unit import Database

LIFETIME = 3600
WAIT = limits.JWKS_MAX_AGE_SECONDS + limits.KEYS_REFRESH_SECONDS
OVERLAP = LIFETIME + limits.JWKS_MAX_AGE_SECONDS


@dataclass
class Keys:
    """The key table of one process, with a clock that the test turns."""

    database: Database
    clock: Turned
    sealer: Sealer

    async def ensure(self, algorithm: str = "ES256") -> bool:
        return await self.database.write(ensure_keys, NOBODY, self.sealer, algorithm)  # type: ignore[arg-type]

    async def rotate(self, algorithm: str = "ES256", *, at_once: bool = False) -> str:
        return await self.database.write(_rotate_unrecorded, NOBODY, self.sealer, algorithm, at_once=at_once)

    async def all(self) -> list[SigningKey]:
        return await self.database.read(list_keys, NOBODY, self.sealer, include_unpublished=True)

    async def by_status(self) -> dict[str, list[SigningKey]]:
        found: dict[str, list[SigningKey]] = {"next": [], "current": [], "retired": []}
        for key in await self.all():
            found[key.status].append(key)
        return found

    async def due(self, algorithm: str = "ES256", days: int = 90) -> bool:
        return await self.database.read(is_rotation_due, NOBODY, algorithm, rotation_days=days)  # type: ignore[arg-type]


def _rotate_unrecorded(tx: Any, sealer: Sealer, algorithm: Any, *, at_once: bool) -> str:
    """There is no organization here on whose account the audit event could be; that it is left is tested through the server."""
    key_id = rotate_keys(tx, sealer, algorithm, lifetime_seconds=LIFETIME, at_once=at_once)
    tx.entries.clear()
    return key_id


def with_keys(url: str, work: Any) -> None:
    async def run() -> None:
        clock = Turned()
        async with opened(url, clock) as database:
            await work(Keys(database, clock, Sealer(new_master_key())))

    asyncio.run(run())


def test_an_empty_table_gets_one_current_and_one_next_key_once(database_url: str) -> None:
    async def work(keys: Keys) -> None:
        assert await keys.ensure() is True
        first = await keys.by_status()
        assert [len(first[status]) for status in ("next", "current", "retired")] == [1, 1, 0]
        assert await keys.ensure() is False
        assert {key.key_id for key in await keys.all()} == {first["next"][0].key_id, first["current"][0].key_id}
        assert (first["current"][0].activated_at, first["next"][0].activated_at) == (keys.clock.now, None)

    with_keys(database_url, work)


def test_next_becomes_current_becomes_retired_and_stays_published_for_its_tokens(database_url: str) -> None:
    async def work(keys: Keys) -> None:
        await keys.ensure()
        before = await keys.by_status()
        with pytest.raises(Conflict, match="Verifiers may not know the next key before"):
            await keys.rotate()
        keys.clock.forward(seconds=WAIT - 1)
        with pytest.raises(Conflict):
            await keys.rotate()
        keys.clock.forward(seconds=1)
        assert await keys.rotate() == before["next"][0].key_id
        after = await keys.by_status()
        assert after["current"][0].key_id == before["next"][0].key_id
        assert after["current"][0].activated_at == keys.clock.now
        assert after["retired"][0].key_id == before["current"][0].key_id
        assert after["retired"][0].published_until == keys.clock.now + OVERLAP * 1000
        assert after["next"][0].key_id not in {key.key_id for status in before.values() for key in status}

        keys.clock.forward(seconds=OVERLAP - 1)
        assert len(await keys.database.read(list_keys, NOBODY, keys.sealer)) == 3
        keys.clock.forward(seconds=1)
        assert before["current"][0].key_id not in {key.key_id for key in await keys.database.read(list_keys, NOBODY, keys.sealer)}
        assert len(await keys.all()) == 3, "what was once a key stays on record"

    with_keys(database_url, work)


def test_a_compromised_key_can_be_replaced_at_once(database_url: str) -> None:
    async def work(keys: Keys) -> None:
        await keys.ensure()
        following = (await keys.by_status())["next"][0].key_id
        assert await keys.rotate(at_once=True) == following

    with_keys(database_url, work)


def test_another_algorithm_makes_the_next_key_and_the_rotation_due(database_url: str) -> None:
    async def work(keys: Keys) -> None:
        await keys.ensure("ES256")
        unused = (await keys.by_status())["next"][0].key_id
        assert await keys.ensure("Ed25519") is True
        found = await keys.by_status()
        assert (found["current"][0].algorithm, found["next"][0].algorithm) == ("ES256", "Ed25519")
        assert [key.key_id for key in found["retired"]] == [unused], "it has signed nothing: no longer published"
        assert found["retired"][0].published_until == keys.clock.now
        assert await keys.due("Ed25519", days=0) is False, "verifiers do not know the key yet"
        keys.clock.forward(seconds=WAIT)
        assert await keys.due("Ed25519", days=0) is True
        await keys.rotate("Ed25519")
        assert (await keys.by_status())["current"][0].algorithm == "Ed25519"
        assert await keys.due("Ed25519", days=0) is False

    with_keys(database_url, work)


def test_a_rotation_is_due_by_age_of_the_current_key(database_url: str) -> None:
    async def work(keys: Keys) -> None:
        await keys.ensure()
        keys.clock.forward(seconds=90 * 86400 - 1)
        assert await keys.due(days=90) is False
        keys.clock.forward(seconds=1)
        assert await keys.due(days=90) is True
        assert await keys.due(days=0) is False, "0: never"
        await keys.rotate()
        assert await keys.due(days=90) is False

    with_keys(database_url, work)


def test_a_withdrawn_key_is_gone_for_a_process_whose_clock_is_behind_too(database_url: str) -> None:
    def withdraw(tx: Any, key_id: str) -> None:
        retire_key(tx, key_id)
        tx.entries.clear()

    async def work(keys: Keys) -> None:
        await keys.ensure()
        compromised = (await keys.by_status())["current"][0].key_id
        await keys.rotate(at_once=True)
        await keys.database.write(withdraw, NOBODY, compromised)
        keys.clock.forward(seconds=-limits.ISSUED_AT_LEEWAY_SECONDS)
        store = KeyStore(keys.database, keys.sealer, keys.clock)
        await store.reload()
        assert await store.find(compromised) is None
        assert compromised.encode() not in store.jwks

    with_keys(database_url, work)


def test_only_a_retired_key_can_be_withdrawn(database_url: str) -> None:
    async def work(keys: Keys) -> None:
        await keys.ensure()
        found = await keys.by_status()
        for status in ("next", "current"):
            with pytest.raises(Conflict, match=f"The key is {status}"):
                await keys.database.write(retire_key, NOBODY, found[status][0].key_id)
        with pytest.raises(NotFound):
            await keys.database.write(retire_key, NOBODY, "unknown")

    with_keys(database_url, work)


@pytest.mark.parametrize("engine", ["postgresql"])
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "when due"])
def test_two_processes_that_rotate_at_the_same_moment_rotate_once(database_url: str, *, at_once: bool) -> None:
    """Each has a pool of its own. The one that comes second learns so; there is never a second next or current key."""

    async def work(keys: Keys) -> None:
        await keys.ensure()
        keys.clock.forward(seconds=WAIT)
        following = (await keys.by_status())["next"][0].key_id
        async with opened(database_url, keys.clock) as other_database:
            other = Keys(other_database, keys.clock, keys.sealer)
            await other.all()
            results = await asyncio.gather(keys.rotate(at_once=at_once), other.rotate(at_once=at_once), return_exceptions=True)
        assert [type(result) for result in results if isinstance(result, BaseException)] in ([Conflict], []), results
        found = await keys.by_status()
        assert (len(found["next"]), len(found["current"])) == (1, 1)
        if not at_once:
            assert following in results
            assert (found["current"][0].key_id, len(found["retired"])) == (following, 1)

    with_keys(database_url, work)


@pytest.mark.parametrize("engine", ["postgresql"])
def test_processes_that_start_at_the_same_moment_share_their_first_keys(database_url: str) -> None:
    async def work(keys: Keys) -> None:
        async with opened(database_url, keys.clock) as other_database:
            other = Keys(other_database, keys.clock, keys.sealer)
            await asyncio.gather(*(one.ensure() for one in (keys, other) for _ in range(3)))
        found = await keys.by_status()
        assert [len(found[status]) for status in ("next", "current", "retired")] == [1, 1, 0]

    with_keys(database_url, work)


def test_an_unknown_key_id_makes_the_store_look_at_most_once_a_second(database_url: str) -> None:
    reads: list[str] = []

    async def run() -> None:
        clock = Turned()
        async with opened(database_url, clock, lambda kind, _: reads.append(kind)) as database:
            keys = Keys(database, clock, Sealer(new_master_key()))
            await keys.ensure()
            store = KeyStore(database, keys.sealer, clock)
            await store.reload()
            current = store.current.key_id
            reads.clear()
            for unknown in ("unknown", "../../etc/passwd", "", None, 7, ["x"], {}):
                assert await store.find(unknown) is None
            assert await store.find(current) is not None
            assert reads == []
            clock.forward(seconds=limits.UNKNOWN_KEY_RELOAD_SECONDS)
            assert set(await asyncio.gather(*(store.find("unknown") for _ in range(5)))) == {None}
            assert reads == ["read"]

            await keys.rotate(at_once=True)  # another process's: this store has not heard of it
            made = (await keys.by_status())["next"][0].key_id
            assert await store.find(made) is None
            clock.forward(seconds=limits.UNKNOWN_KEY_RELOAD_SECONDS)
            assert await store.find(made) is not None
            clock.forward(seconds=OVERLAP)
            assert await store.find(current) is None, "no longer published, and no reload is needed to know"

    asyncio.run(run())


def key_ids(server: RunningServer) -> list[str]:
    with server.client() as client:
        return [key["kid"] for key in client.get("/.well-known/jwks.json").json()["keys"]]


def key_id_of(token: str) -> str:
    header = token.partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(header + "=="))["kid"])


def agent_info(server: RunningServer, token: str) -> httpx2.Response:
    with server.client(headers={"Authorization": f"Bearer {token}"}) as client:
        return client.get("/agent-info")


def test_a_served_key_set_has_the_next_key_before_it_signs_and_a_withdrawn_key_kills_its_tokens_at_once(own_server: RunningServer) -> None:
    server = own_server
    instance, admin = server.instance, make_tenant(server).admin
    operator = Caller(instance.operator_organization_id, is_system=True)

    old = admin.token()
    signing = key_id_of(old)
    published = key_ids(server)
    assert signing in published
    (following,) = set(published) - {signing}

    assert server.write(rotate_keys, operator, instance.sealer, "ES256", lifetime_seconds=LIFETIME, at_once=True) == following
    server.await_(instance.keys.reload())
    fresh = admin.token()
    assert key_id_of(fresh) == following
    assert {signing, following} < set(key_ids(server))
    assert agent_info(server, old).status_code == 200, "tokens of the retired key live on"

    server.write(retire_key, operator, signing)
    assert agent_info(server, old).status_code == 401, "without waiting for any process to reload"
    assert agent_info(server, fresh).status_code == 200
    rows = server.read(lambda tx: tx.all(sa.select(audit_events.c.target_id).where(audit_events.c.action == "key.rotated")), operator)
    assert sorted(row.target_id for row in rows) == sorted([following, signing]), "both are on record"
    server.await_(instance.keys.reload())
    assert signing not in key_ids(server)
    assert agent_info(server, old).status_code == 401
