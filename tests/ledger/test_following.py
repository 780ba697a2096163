"""Following the sealed history on both engines: from where, in what order, by one of several, and over what was forgotten meanwhile."""

import asyncio
from typing import Any

import sqlalchemy as sa
from tests.db.opened import Turned, with_database
from tests.ledger.made import Known, make_known
from tests.ledger.test_sealer import KEY, checkpoints, events, issue, sealer_of

from agentidp.core import limits
from agentidp.core.caller import SYSTEM
from agentidp.core.ids import new_id
from agentidp.db.schema import audit_followers
from agentidp.db.unit import Database, Tx
from agentidp.ledger.feed import Feed
from agentidp.ledger.following import Place, Sealed, advance, document, find_behind, follow, give_up, lead, list_sealed, take_up, unfollow
from agentidp.ledger.heads import sign_heads
from agentidp.ledger.retention import Cut, begin_at, purge
from agentidp.ledger.sealing import release


async def seal(database: Database) -> None:
    """Everything, and leave the chains to whoever comes next."""
    sealer = sealer_of(database)
    await sealer.seal_all()
    await database.write(release, SYSTEM, sealer.sealer_id)


async def sealed(database: Database, known: Known) -> list[Any]:
    """The organization's events by their number, all of them sealed."""
    await seal(database)
    return await database.read(events, SYSTEM, known)


async def walk(database: Database, place: Place, **options: Any) -> list[Any]:
    """Everything behind the place."""
    found: list[Any] = []
    while True:
        piece, after = await database.read(list_sealed, SYSTEM, place, **options)
        assert len(piece) <= limits.FOLLOWED_EVENTS_MAX
        if after == place:
            assert not piece
            return found
        found, place = [*found, *piece], after


def places(tx: Tx, follower: str) -> dict[str, int]:
    of = audit_followers.c
    return {row.organization_id: row.seq for row in tx.all(sa.select(of.organization_id, of.seq).where(of.follower == follower))}


def test_a_follower_begins_at_the_head_and_is_behind_when_more_is_sealed(database_url: str) -> None:
    async def work(database: Database) -> None:
        known, other = await make_known(database), await make_known(database)
        before = len(await sealed(database, known))
        await database.write(follow, known.caller, "one")
        await database.write(follow, other.caller, "another")
        assert await database.read(find_behind, SYSTEM, "one") == []
        await issue(database, known, 3)
        await issue(database, other, 3)
        await seal(database)
        assert await database.read(find_behind, SYSTEM, "one") == [Place(known.organization_id, before)]
        await database.write(follow, known.caller, "one")  # is followed already: nothing is skipped
        (place,) = await database.read(find_behind, SYSTEM, "one")
        assert [event.event_id for event in await walk(database, place)] == [row.event_id for row in (await sealed(database, known))[before:]]
        await database.write(unfollow, known.caller, "one")
        assert await database.read(find_behind, SYSTEM, "one") == []
        assert len(await database.read(find_behind, SYSTEM, "another")) == 1

    with_database(database_url, work)


def test_pieces_are_bounded_in_order_and_of_one_organization(database_url: str) -> None:
    async def work(database: Database) -> None:
        known, other = await make_known(database), await make_known(database)
        await issue(database, known, limits.FOLLOWED_EVENTS_MAX + 20)
        await issue(database, other, 5)
        rows = await sealed(database, known)
        found = await walk(database, Place(known.organization_id, 0))
        assert [(event.seq, event.event_id) for event in found] == [(row.seq, row.event_id) for row in rows]
        assert {event.organization_id for event in found} == {known.organization_id}
        told = document(found[-1])
        assert (told["id"], told["type"], told["data"]["seq"]) == (rows[-1].event_id, rows[-1].action, len(rows))
        beyond = Place(known.organization_id, len(rows) + 7)  # of a database that was restored: not back to what was seen
        assert await database.read(list_sealed, SYSTEM, beyond) == ([], beyond)

    with_database(database_url, work)


def test_only_the_actions_that_are_asked_for_are_given_and_the_place_moves_all_the_same(database_url: str) -> None:
    async def work(database: Database) -> None:
        known = await make_known(database)
        await issue(database, known, limits.FOLLOWED_EVENTS_MAX + 20)
        rows = await sealed(database, known)
        wanted = {"agent.created", "credential.generated"}
        found = await walk(database, Place(known.organization_id, 0), actions=wanted)
        assert [event.event_id for event in found] == [row.event_id for row in rows if row.action in wanted]
        assert found
        assert await walk(database, Place(known.organization_id, 0), actions=[]) == []
        nothing, after = await database.read(list_sealed, SYSTEM, Place(known.organization_id, 10), ["no.such"])
        assert (nothing, after.seq) == ([], 10 + limits.FOLLOWED_EVENTS_MAX)

    with_database(database_url, work)


def test_of_two_who_move_on_at_once_one_does(database_url: str) -> None:
    async def work(database: Database) -> None:
        known = await make_known(database)
        await database.write(follow, known.caller, "one")
        for _ in range(5):
            await issue(database, known, 2)
            await seal(database)
            (begin,) = await database.read(find_behind, SYSTEM, "one")
            _, end = await database.read(list_sealed, SYSTEM, begin)
            moved = await asyncio.gather(*(database.write(advance, SYSTEM, "one", begin, end) for _ in range(4)))
            assert sum(instant is not None for instant in moved) == 1
            assert await database.read(places, SYSTEM, "one") == {known.organization_id: end.seq}
            assert await database.read(find_behind, SYSTEM, "one") == []

    with_database(database_url, work)


def test_the_instant_of_a_move_never_goes_back(database_url: str) -> None:
    clock = Turned()

    async def work(database: Database) -> None:
        known = await make_known(database)
        await database.write(follow, known.caller, "one")
        begin = Place(known.organization_id, (await database.read(places, SYSTEM, "one"))[known.organization_id])
        first = await database.write(advance, SYSTEM, "one", begin, Place(known.organization_id, begin.seq + 1))
        clock.forward(seconds=-60)
        second = await database.write(advance, SYSTEM, "one", Place(known.organization_id, begin.seq + 1), Place(known.organization_id, begin.seq + 2))
        assert first is not None
        assert second == first

    with_database(database_url, work, clock=clock)


def test_what_is_forgotten_meanwhile_is_stepped_over(database_url: str) -> None:
    async def work(database: Database) -> None:
        known = await make_known(database)
        await issue(database, known, limits.FOLLOWED_EVENTS_MAX + 50)
        await sealed(database, known)
        await database.write(sign_heads, SYSTEM, KEY, [known.organization_id])
        await issue(database, known, 4)
        rows = await sealed(database, known)
        ((size, _),) = await database.read(checkpoints, SYSTEM, known)
        cut = Cut(known.organization_id, size)
        await database.write(begin_at, SYSTEM, [cut])
        while await database.write(purge, SYSTEM, cut):
            pass
        assert [event.event_id for event in await walk(database, Place(known.organization_id, 0))] == [row.event_id for row in rows[size:]]

    with_database(database_url, work)


def test_who_follows_all_leaves_the_past_and_takes_new_ones_up_from_their_first_event(database_url: str) -> None:
    async def work(database: Database) -> None:
        old = await make_known(database)
        unsealed = await make_known(database)
        await seal(database)
        await issue(database, unsealed, 1)
        await database.write(take_up, SYSTEM, "all")
        reached = await database.read(places, SYSTEM, "all")
        assert reached.keys() == {old.organization_id, unsealed.organization_id}
        assert reached[old.organization_id] == len(await sealed(database, old)) > 0
        new = await make_known(database)
        await seal(database)
        for _ in range(2):
            await database.write(take_up, SYSTEM, "all")
        assert await database.read(places, SYSTEM, "all") == reached | {new.organization_id: 0}
        assert len(await walk(database, Place(new.organization_id, 0))) == len(await sealed(database, new))

    with_database(database_url, work)


def test_one_leads_until_its_lease_ends_or_it_gives_it_up(database_url: str) -> None:
    clock = Turned()

    async def work(database: Database) -> None:
        first, second = new_id(clock()), new_id(clock() + 1)

        async def leads(holder: str) -> bool:
            return await database.write(lead, SYSTEM, "all", holder)

        assert [await leads(first), await leads(second), await leads(first)] == [True, False, True]
        assert sum(await asyncio.gather(*(database.write(lead, SYSTEM, "fresh", new_id(clock() + n)) for n in range(6)))) == 1
        clock.forward(seconds=limits.FOLLOWER_LEASE_MS / 1000)
        assert [await leads(second), await leads(first)] == [True, False]
        await database.write(give_up, SYSTEM, "all", first)  # is not its own
        assert await leads(first) is False
        await database.write(give_up, SYSTEM, "all", second)
        assert await leads(first) is True
        clock.forward(seconds=-2 * limits.FOLLOWER_LEASE_BELIEVED_MS / 1000)  # the clock by which it was taken was wrong
        assert await leads(second) is True

    with_database(database_url, work, clock=clock)


def test_a_feed_tells_of_the_watched_and_shares_what_it_reads(database_url: str) -> None:
    reads: list[str] = []

    async def work(database: Database) -> None:
        known = await make_known(database)
        size = len(await sealed(database, known))
        told = Sealed()
        feed, place = Feed(database, told), Place(known.organization_id, size)
        with feed.watching(known.organization_id):
            assert await feed.is_beyond(Place(known.organization_id, size - 1), 0)
            assert not await feed.is_beyond(place, 0)
            waiting = [asyncio.create_task(feed.is_beyond(place, 30)) for _ in range(20)]
            await asyncio.sleep(0)
            await issue(database, known, 2)
            await seal(database)
            told.tell()
            assert all(await asyncio.gather(*waiting))
            before = len(reads)
            pieces = await asyncio.gather(*(feed.read(place) for _ in range(20)))
            assert len(reads) - before == 1
            assert {tuple(event.seq for event in piece) for piece, _ in pieces} == {(size + 1, size + 2)}
            late = asyncio.create_task(feed.is_beyond(pieces[0][1], 30))
            await asyncio.sleep(0)
            feed.close()
            assert await late is False

    with_database(database_url, work, observe=lambda kind, _: reads.append(kind) if kind == "read" else None)
