"""Data keys: made once, wrapped anew in one transaction, and every sealed value follows, however often that is interrupted."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa
from tests.auth.first_release import make_old
from tests.db.opened import opened, with_database
from tests.fakes.fake_vault import FakeVault, serving_vault

from agentidp.auth.data_keys import (
    SEALED_COLUMNS,
    Held,
    list_data_keys,
    list_held,
    open_sealer,
    refresh_sealer,
    reseal,
    reseal_some,
    rewrap,
    store_wrapped,
)
from agentidp.auth.keys import KeyStore, ensure_keys, rotate_keys
from agentidp.auth.master_keys import LocalKey, MasterKeys
from agentidp.auth.server_secrets import ensure_server_secret
from agentidp.auth.vault import VaultKey
from agentidp.core.caller import SYSTEM
from agentidp.core.clock import system_clock
from agentidp.core.config import VaultSettings
from agentidp.core.errors import Conflict, WrongSettings
from agentidp.core.ids import new_id
from agentidp.core.secrets import Sealer, key_id_of, new_master_key
from agentidp.db.schema import audit_events, data_keys, server_secrets, signing_keys
from agentidp.db.unit import Database, Tx

A, B = new_master_key(), new_master_key()
UNDER_A, UNDER_B, FROM_A_TO_B = MasterKeys(LocalKey(A)), MasterKeys(LocalKey(B)), MasterKeys(LocalKey(B), (LocalKey(A),))
OPERATOR = replace(SYSTEM, organization_id=new_id(system_clock()))
Work = Callable[[Database], Awaitable[None]]


async def fill(database: Database, master_keys: MasterKeys = UNDER_A) -> bytes:
    """What an instance seals when it starts. Returns the server secret."""
    sealer = await open_sealer(database, master_keys)
    await database.write(ensure_keys, SYSTEM, sealer, "ES256")
    return await database.write(ensure_server_secret, SYSTEM, sealer, "test")


async def opens(database: Database, master_keys: MasterKeys) -> bytes:
    """Open everything. Returns the server secret. Raises WrongSettings."""
    sealer = await open_sealer(database, master_keys)
    await KeyStore(database, sealer, system_clock).reload()
    return await database.read(ensure_server_secret, SYSTEM, sealer, "test")


async def held(database: Database) -> list[tuple[str, bool, str, int]]:
    """Column, whether a data key is between, master key, count."""
    return [(row.column, row.data_key is not None, row.master_key, row.count) for row in await database.read(list_held, SYSTEM)]


def all_under(name: str, *, data_keys: int = 1) -> list[tuple[str, bool, str, int]]:
    wrapped = [("data_keys.wrapped_key", True, name, 1)] * data_keys
    return [*wrapped, ("server_secrets.sealed_value", True, name, 1), ("signing_keys.sealed_private_key", True, name, 2)]


def test_the_first_start_makes_one_data_key_and_seals_everything_under_it(database_url: str) -> None:
    async def work(database: Database) -> None:
        secret = await fill(database)
        assert await opens(database, UNDER_A) == secret
        assert await held(database) == all_under(UNDER_A.current.name)
        (key,) = await database.read(list_data_keys, SYSTEM)
        assert {row.data_key for row in await database.read(list_held, SYSTEM)} == {key.key_id}
        assert key_id_of(A) != key.key_id

    with_database(database_url, work)


@pytest.mark.parametrize("engine", ["postgresql"])
def test_processes_that_start_at_once_share_one_data_key(database_url: str) -> None:
    async def work(database: Database) -> None:
        async with opened(database_url) as other:
            sealers = await asyncio.gather(*(open_sealer(one, UNDER_A) for one in (database, other) for _ in range(3)))
        (key,) = await database.read(list_data_keys, SYSTEM)
        assert {sealer.key_id for sealer in sealers} == {key.key_id}

    with_database(database_url, work)


def test_a_wrong_master_key_is_refused_and_changes_nothing(database_url: str) -> None:
    async def work(database: Database) -> None:
        await fill(database)
        before = await database.read(list_data_keys, SYSTEM)
        with pytest.raises(WrongSettings, match=f"master_key: the database is sealed under {UNDER_A.current.name}, this one is {UNDER_B.current.name}"):
            await open_sealer(database, UNDER_B)
        with pytest.raises(WrongSettings):
            await rewrap(database, UNDER_B, OPERATOR)
        assert await database.read(list_data_keys, SYSTEM) == before

    with_database(database_url, work)


def test_a_rotation_wraps_the_data_key_anew_and_leaves_the_values(database_url: str) -> None:
    def values(tx: Tx) -> list[str]:
        return [row[0] for column in SEALED_COLUMNS for row in tx.all(sa.select(column).order_by(column))]

    async def work(database: Database) -> None:
        secret = await fill(database)
        before = await database.read(values, SYSTEM)
        assert await rewrap(database, FROM_A_TO_B, OPERATOR) == 1
        assert await reseal(database, await open_sealer(database, FROM_A_TO_B), OPERATOR) == 0
        assert await database.read(values, SYSTEM) == before
        assert await held(database) == all_under(UNDER_B.current.name)
        assert await opens(database, UNDER_B) == secret
        with pytest.raises(WrongSettings, match=f"sealed under {UNDER_B.current.name}"):
            await opens(database, UNDER_A)
        (event,) = await database.read(lambda tx: tx.all(sa.select(audit_events).where(audit_events.c.action == "key.rotated")), SYSTEM)
        assert (event.organization_id, event.metadata) == (OPERATOR.organization_id, {"masterKey": UNDER_B.current.name})
        assert await rewrap(database, FROM_A_TO_B, OPERATOR) == 0, "done is done"

    with_database(database_url, work)


def test_with_a_new_data_key_every_value_is_sealed_anew_in_steps_of_any_size(database_url: str) -> None:
    """After each step the database opens: what is interrupted there is taken up again."""

    async def work(database: Database) -> None:
        secret = await fill(database)
        await rewrap(database, FROM_A_TO_B, OPERATOR, new_data_key=True)
        (fresh, former) = await database.read(list_data_keys, SYSTEM)
        steps = 0
        while True:
            assert await opens(database, UNDER_B) == secret
            sealer = await open_sealer(database, UNDER_B)
            assert sealer.key_id == fresh.key_id
            if not await database.write(reseal_some, SYSTEM, sealer, rows_max=1):
                break
            steps += 1
        assert steps == 3
        found = await database.read(list_held, SYSTEM)
        assert {row.data_key for row in found if row.column != "data_keys.wrapped_key"} == {fresh.key_id}
        assert await held(database) == all_under(UNDER_B.current.name, data_keys=2)
        assert former.key_id != fresh.key_id

    with_database(database_url, work)


def test_what_the_first_release_sealed_opens_and_follows_at_the_next_rotation(database_url: str) -> None:
    async def work(database: Database) -> None:
        secret = await fill(database)
        await make_old(database, A)
        assert [row[1:3] for row in await held(database)] == [(False, UNDER_A.current.name)] * 2
        with pytest.raises(WrongSettings, match=f"sealed under {UNDER_A.current.name}"):
            await open_sealer(database, UNDER_B)
        assert await database.read(list_data_keys, SYSTEM) == [], "a wrong key wraps nothing"
        assert await opens(database, UNDER_A) == secret
        assert [row[1] for row in await held(database)] == [True, False, False], "new values only"
        await rewrap(database, FROM_A_TO_B, OPERATOR)
        assert [row[2] for row in await held(database)] == [UNDER_B.current.name, UNDER_A.current.name, UNDER_A.current.name]
        assert await opens(database, FROM_A_TO_B) == secret
        with pytest.raises(WrongSettings, match="is under key"):
            await opens(database, UNDER_B)
        assert await reseal(database, await open_sealer(database, FROM_A_TO_B), OPERATOR) == 3
        assert await held(database) == all_under(UNDER_B.current.name)
        assert await opens(database, UNDER_B) == secret

    with_database(database_url, work)


def test_more_values_than_one_transaction_takes_are_sealed_in_several(database_url: str) -> None:
    async def work(database: Database) -> None:
        sealer = await open_sealer(database, UNDER_A)
        for number in range(7):
            await database.write(ensure_server_secret, SYSTEM, sealer, f"name {number}")
        await rewrap(database, UNDER_A, OPERATOR, new_data_key=True)
        sealer = await open_sealer(database, UNDER_A)
        counts = [await database.write(reseal_some, SYSTEM, sealer, rows_max=3) for _ in range(4)]
        assert counts == [3, 3, 1, 0]

    with_database(database_url, work)


def test_a_value_that_does_not_open_stops_the_sealing_and_is_kept(database_url: str) -> None:
    async def work(database: Database) -> None:
        await fill(database)
        stray = Sealer(new_master_key()).seal(b"value", "server_secrets", "sealed_value", "stray")
        await database.write(lambda tx: tx.insert_new(server_secrets, name="stray", sealed_value=stray, created_at=tx.now), SYSTEM)
        with pytest.raises(WrongSettings, match="server_secrets/sealed_value/stray is under key"):
            await reseal(database, await open_sealer(database, UNDER_A), OPERATOR)
        assert Held("server_secrets.sealed_value", None, f"master key {stray[3:11]}", 1) in await database.read(list_held, SYSTEM)

    with_database(database_url, work)


def test_a_rotation_that_another_process_has_overtaken_is_refused(database_url: str) -> None:
    async def work(database: Database) -> None:
        await fill(database)
        before = await database.read(list_data_keys, SYSTEM)
        await rewrap(database, FROM_A_TO_B, OPERATOR)
        with pytest.raises(Conflict, match="Another process"):
            await database.write(store_wrapped, OPERATOR, before, [], UNDER_A.current.wrap(new_master_key()))
        assert await held(database) == all_under(UNDER_B.current.name)

    with_database(database_url, work)


@pytest.mark.parametrize("engine", ["postgresql"])
def test_two_rotations_at_once_leave_everything_under_the_new_key(database_url: str) -> None:
    async def work(database: Database) -> None:
        secret = await fill(database)
        async with opened(database_url) as other:
            results = await asyncio.gather(*(rewrap(one, FROM_A_TO_B, OPERATOR, new_data_key=True) for one in (database, other)), return_exceptions=True)
        assert {type(result) for result in results} <= {int, Conflict}
        assert len([result for result in results if isinstance(result, int)]) >= 1
        await reseal(database, await open_sealer(database, UNDER_B), OPERATOR)
        assert await opens(database, UNDER_B) == secret

    with_database(database_url, work)


@pytest.mark.parametrize("change", ["swapped", "renamed", "cut"])
def test_a_wrapped_key_that_was_changed_or_moved_does_not_open(change: str, database_url: str) -> None:
    async def work(database: Database) -> None:
        await fill(database)
        await rewrap(database, UNDER_A, OPERATOR, new_data_key=True)
        (one, other) = await database.read(list_data_keys, SYSTEM)
        values = {"swapped": {"wrapped_key": other.text}, "renamed": {"key_id": "00000000"}, "cut": {"wrapped_key": one.text[:-8]}}[change]
        await database.write(lambda tx: tx.run(sa.update(data_keys).where(data_keys.c.key_id == one.key_id).values(**values)).rowcount, SYSTEM)
        with pytest.raises(WrongSettings, match="changed or moved"):
            await open_sealer(database, UNDER_A)

    with_database(database_url, work)


@pytest.mark.parametrize("engine", ["postgresql"])
def test_a_running_process_learns_a_new_data_key_and_its_keys(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """One that was given both master keys; one that was not keeps what it has, and says so."""

    async def work(database: Database) -> None:
        await fill(database)
        stores, sealers = [], []
        for keys in (FROM_A_TO_B, UNDER_A):
            sealer = await open_sealer(database, keys)
            stores.append(KeyStore(database, sealer, system_clock, lambda keys=keys, sealer=sealer: refresh_sealer(database, lambda: keys, sealer)))
            sealers.append(sealer)
            await stores[-1].reload()
        async with opened(database_url) as other:
            await rewrap(other, FROM_A_TO_B, OPERATOR, new_data_key=True)
            fresh = await open_sealer(other, UNDER_B)
            await reseal(other, fresh, OPERATOR)
            for store in stores:
                await store.reload()
            await other.write(rotate_keys, OPERATOR, fresh, "ES256", lifetime_seconds=60, at_once=True)
        made = await database.read(lambda tx: tx.all(sa.select(signing_keys.c.key_id).where(signing_keys.c.status == "next")), SYSTEM)
        assert [sealer.key_id == fresh.key_id for sealer in sealers] == [True, False]
        await stores[0].reload()
        assert await stores[0].find(made[0].key_id) is not None
        assert "a data key cannot be opened" in {record.message for record in caplog.records if record.levelno == logging.ERROR}
        with pytest.raises(WrongSettings):
            await stores[1].reload()
        assert await stores[1].find(made[0].key_id) is None, "unknown, not a fault"
        assert stores[1].current.private_key is not None

    with_database(database_url, work)


def test_from_a_local_key_to_vault_to_its_next_version_and_back(database_url: str) -> None:
    vault = FakeVault()

    async def work(database: Database) -> None:
        transit = VaultKey(VaultSettings(address=address, token="hvs.fake-token"))
        local, remote = LocalKey(A), MasterKeys(transit)
        secret = await fill(database)
        await make_old(database, A)
        await open_sealer(database, MasterKeys(transit, (local,)))
        await rewrap(database, MasterKeys(transit, (local,)), OPERATOR)
        await reseal(database, await open_sealer(database, MasterKeys(transit, (local,))), OPERATOR)
        assert await held(database) == all_under("Vault key transit/agentidp v1")
        assert await opens(database, remote) == secret
        vault.rotate()
        assert await opens(database, remote) == secret, "earlier versions open"
        assert await rewrap(database, remote, OPERATOR) == 1
        vault.min_decryption_version = 2
        assert await held(database) == all_under("Vault key transit/agentidp v2")
        assert await opens(database, remote) == secret
        assert await rewrap(database, remote, OPERATOR) == 0
        vault.is_sealed = True
        with pytest.raises(WrongSettings, match="Vault is sealed"):
            await rewrap(database, MasterKeys(local, (transit,)), OPERATOR)
        vault.is_sealed = False
        assert await rewrap(database, MasterKeys(local, (transit,)), OPERATOR) == 1
        assert await opens(database, UNDER_A) == secret
        assert await held(database) == all_under(local.name)

    with serving_vault(vault) as address:
        with_database(database_url, work)


def test_vault_is_asked_for_data_keys_and_never_for_single_values(database_url: str) -> None:
    vault = FakeVault()

    async def work(database: Database) -> None:
        keys = MasterKeys(VaultKey(VaultSettings(address=address, token="hvs.fake-token")))
        sealer = await open_sealer(database, keys)
        for number in range(20):
            await database.write(ensure_server_secret, SYSTEM, sealer, f"name {number}")
        assert [path.split("/")[3] for path, _ in vault.requests] == ["encrypt", "decrypt"]

    with serving_vault(vault) as address:
        with_database(database_url, work)
