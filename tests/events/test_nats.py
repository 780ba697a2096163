"""Publishing to a real NATS JetStream: every event once and in order, whoever is killed, and never without its acknowledgement."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.db.opened import opened
from tests.events.own_nats import PASSWORD, OwnNats
from tests.ledger.made import Known, make_known
from tests.ledger.test_writers import entry, write_together
from tests.processes import serving, wait_until
from tests.serving import RunningServer, settings_for
from tests.tenants import make_tenant

from agentidp.auth.instance import Instance
from agentidp.core.caller import SYSTEM
from agentidp.core.clock import system_clock
from agentidp.core.errors import WrongSettings
from agentidp.core.metrics import Metrics
from agentidp.db.schema import audit_events, audit_followers
from agentidp.db.unit import Database, Tx
from agentidp.events.nats import FOLLOWER, Publisher
from agentidp.ledger.nudge import Nudge
from agentidp.ledger.sealer import ChainSealer

SEED = 20_261_128


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[OwnNats]:
    server = OwnNats(tmp_path)
    server.start()
    yield server
    server.stop()


def sealed_ids(tx: Tx) -> dict[str, list[str]]:
    """The ids of every organization's sealed events, by number."""
    of = audit_events.c
    rows = tx.all(sa.select(of.organization_id, of.event_id, of.seq).where(of.seq.is_not(None)).order_by(of.organization_id, of.seq))
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.organization_id, []).append(row.event_id)
    return found


def places(tx: Tx) -> dict[str, int]:
    of = audit_followers.c
    return {row.organization_id: row.seq for row in tx.all(sa.select(of.organization_id, of.seq).where(of.follower == FOLLOWER))}


def stored_ids(own_nats: OwnNats) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for subject, headers, body in own_nats.stored():
        organization_id = subject.split(".")[1]
        assert headers["Nats-Msg-Id"] == body["id"]
        found.setdefault(organization_id, []).append(body["id"])
    return found


def instance_on(database: Database, url: str, folder: Path) -> Instance:
    """As much of a server as a publisher looks at."""
    settings = settings_for(folder, None, nats_url=url)
    nothing: Any = None
    return Instance(settings, database, nothing, nothing, nothing, system_clock, Metrics(), *[nothing] * 4)


@contextlib.asynccontextmanager
async def publishing(database: Database, url: str, folder: Path) -> AsyncIterator[Instance]:
    instance = instance_on(database, url, folder)
    publisher = Publisher(instance, url)
    task = asyncio.create_task(publisher.run())
    try:
        yield instance
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until_published(database: Database, seconds: float = 60) -> dict[str, list[str]]:
    """Wait until every place is at its end; what is sealed then."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        ids, reached = await database.read(sealed_ids, SYSTEM), await database.read(places, SYSTEM)
        if ids.keys() <= reached.keys() and all(len(ids.get(organization_id, ())) == seq for organization_id, seq in reached.items()):
            return ids
        await asyncio.sleep(0.05)
    raise AssertionError(f"{reached}, of { ({key: len(value) for key, value in ids.items()}) }")


async def issue(database: Database, known: Known, count: int) -> None:
    await write_together(database, [entry(known, system_clock()) for _ in range(count)])


def test_events_become_cloud_events_under_their_organizations_subject(own_nats: OwnNats, tmp_path: Path, database_url: str) -> None:
    server = RunningServer(settings_for(tmp_path / "data", database_url, nats_url=own_nats.url))
    try:
        tenant = make_tenant(server)
        server.await_(until_published(server.instance.database))
        agent = tenant.agent()
        ids = server.await_(until_published_with(server, agent.agent_id))
    finally:
        server.stop()
    with_target = [one for one in own_nats.stored() if one[2].get("subject") == agent.agent_id]
    (subject, headers, body) = next(one for one in with_target if one[2]["type"] == "agent.created")
    assert subject == f"agentidp.{tenant.organization_id}.agent.created"
    assert headers["Content-Type"] == "application/cloudevents+json"
    assert headers["Nats-Msg-Id"] == body["id"] in ids[tenant.organization_id]
    assert body.keys() == {"specversion", "id", "source", "type", "time", "subject", "datacontenttype", "data"}
    assert (body["specversion"], body["datacontenttype"]) == ("1.0", "application/json")
    assert body["source"] == f"{server.settings.issuer}/organizations/{tenant.organization_id}"
    assert body["data"].keys() == {"seq", "agentId", "outcome", "targetType", "targetId", "requestId", "metadata"}
    assert stored_ids(own_nats)[tenant.organization_id] == ids[tenant.organization_id], "a new organization is followed from its first event"


async def until_published_with(server: RunningServer, target_id: str) -> dict[str, list[str]]:
    """Wait until what was done to the target is sealed, too."""

    def is_sealed(tx: Tx) -> bool:
        of = audit_events.c
        seqs = [row.seq for row in tx.all(sa.select(of.seq).where(of.target_id == target_id))]
        return bool(seqs) and None not in seqs

    database = server.instance.database
    while not await database.read(is_sealed, SYSTEM):  # noqa: ASYNC110 - the sealer tells only those of its own process
        await asyncio.sleep(0.05)
    return await until_published(database)


def test_what_was_there_before_the_first_start_is_left_and_what_comes_later_is_not(own_nats: OwnNats, tmp_path: Path, database_url: str) -> None:
    async def work() -> tuple[Known, Known, dict[str, list[str]]]:
        async with opened(database_url) as database:
            sealer = ChainSealer(database, system_clock, Nudge())
            old = await make_known(database)
            await sealer.seal_all()
            before = (await database.read(sealed_ids, SYSTEM))[old.organization_id]
            async with publishing(database, own_nats.url, tmp_path):
                while not await database.read(places, SYSTEM):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.02)
                await issue(database, old, 3)
                new = await make_known(database)
                await sealer.seal_all()
                while new.organization_id not in await database.read(places, SYSTEM):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.02)
                ids = await until_published(database)
            ids[old.organization_id] = ids[old.organization_id][len(before) :]
            return old, new, ids

    old, new, ids = asyncio.run(work())
    found = stored_ids(own_nats)
    assert len(found[old.organization_id]) == 3
    assert {key: found[key] for key in (old.organization_id, new.organization_id)} == {key: ids[key] for key in (old.organization_id, new.organization_id)}


def test_every_event_is_stored_once_in_order_whoever_is_killed(own_nats: OwnNats, tmp_path: Path, database_url: str) -> None:
    """Publishers are cancelled, two at a time, and the server is killed, at random moments while events come in."""
    chance = random.Random(SEED)

    async def publish_and_die(database: Database, stop: asyncio.Event) -> None:
        while not stop.is_set():
            async with publishing(database, own_nats.url, tmp_path):
                await asyncio.sleep(chance.uniform(0.02, 0.6))

    async def kill_nats(stop: asyncio.Event) -> None:
        while not stop.is_set():
            await asyncio.sleep(chance.uniform(0.3, 1))
            await asyncio.to_thread(own_nats.stop, signal.SIGKILL)
            await asyncio.sleep(chance.uniform(0, 0.3))
            await asyncio.to_thread(own_nats.start)

    async def work() -> dict[str, list[str]]:
        async with opened(database_url) as database:
            sealer = ChainSealer(database, system_clock, Nudge())
            async with publishing(database, own_nats.url, tmp_path):
                await asyncio.sleep(0)
                await make_known(database)
                while not await database.read(places, SYSTEM):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.02)
            tenants = [await make_known(database) for _ in range(4)]
            stop = asyncio.Event()
            hostile = [asyncio.create_task(work) for work in (publish_and_die(database, stop), publish_and_die(database, stop), kill_nats(stop))]
            for _ in range(60):
                await issue(database, chance.choice(tenants), chance.randrange(1, 60))
                await sealer.seal_all()
                await asyncio.sleep(chance.uniform(0, 0.2))
            stop.set()
            await asyncio.gather(*hostile)
            async with publishing(database, own_nats.url, tmp_path):
                return await until_published(database)

    ids = asyncio.run(work())
    found = stored_ids(own_nats)
    print(f"{sum(map(len, ids.values()))} events of {len(ids)} organizations")
    assert {key: len(value) - len(set(value)) for key, value in found.items()} == dict.fromkeys(found, 0)
    assert {key: value[-len(found.get(key, ())) :] for key, value in ids.items()} == found


def test_of_two_processes_one_publishes_and_the_other_takes_over(own_nats: OwnNats, tmp_path: Path, database_url: str) -> None:
    def published(instance: Instance) -> float:
        return instance.metrics.registry.get_sample_value("agentidp_nats_events_published_total") or 0

    async def work() -> tuple[float, float, int, dict[str, list[str]]]:
        async with opened(database_url) as database:
            sealer = ChainSealer(database, system_clock, Nudge())
            known = await make_known(database)
            async with contextlib.AsyncExitStack() as second:
                async with publishing(database, own_nats.url, tmp_path) as one:
                    while not await database.read(places, SYSTEM):  # noqa: ASYNC110 - as above
                        await asyncio.sleep(0.02)
                    other = await second.enter_async_context(publishing(database, own_nats.url, tmp_path))
                    for _ in range(20):
                        await issue(database, known, 50)
                        await sealer.seal_all()
                    await until_published(database)
                    alone = published(one), published(other)
                await issue(database, known, 7)
                await sealer.seal_all()
                ids = await until_published(database)
            return *alone, int(published(other)), ids

    one, other, later, ids = asyncio.run(work())
    assert one >= 1000
    assert (other, later) == (0, 7)
    (key,) = ids
    assert stored_ids(own_nats)[key] == ids[key][-len(stored_ids(own_nats)[key]) :]


def test_health_and_metrics_tell_when_nats_is_away_and_no_password_is_logged(own_nats: OwnNats, tmp_path: Path) -> None:
    with serving(tmp_path, NATS_URL=own_nats.url) as server, server.client() as client:

        def told() -> tuple[int, str, bool]:
            answer = client.get("/health/detailed")
            return answer.status_code, answer.json()["services"]["nats"]["status"], "agentidp_nats_connected 1.0" in client.get("/metrics").text

        wait_until(lambda: told() == (200, "healthy", True))
        assert client.get("/health/detailed").json()["services"]["nats"]["version"].startswith("NATS 2.")
        own_nats.stop()
        wait_until(lambda: told() == (503, "unreachable", False))
        assert client.get("/health").status_code == 200, "it can serve all the same"
        server.token()
        own_nats.start()
        wait_until(lambda: told() == (200, "healthy", True))
        wait_until(lambda: [body for _, _, body in own_nats.stored() if body["type"] == "token.issued"])
    assert "publishing to NATS has to wait" in server.stderr
    assert PASSWORD not in server.stderr + server.stdout


@pytest.mark.parametrize("url", ["nats://", "http://127.0.0.1:4222", "nats://a:4222,", "nats://a:x", "nats://a:4222/path", "nats://a:0", "nats://[a"])
def test_a_wrong_address_is_refused_without_being_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises(WrongSettings, match=r"nats_url: must be nats://") as refused:
        settings_for(tmp_path, None, nats_url=url.replace("//a", "//user:s3cret@a"))
    assert "s3cret" not in str(refused.value)
