"""Key sets that many ask for: what one organization does, waits for or fails at takes nothing from another."""

import asyncio
import json
from typing import Any

import pytest
from tests.auth.asking import Clock, fetches, run, unreachable
from tests.fakes.fake_issuers import DISCOVERY, KEYS, FakeIssuer, IssuerKey, serving_issuer

from agentidp.auth.outside_keys import IssuerUnreachable, OutsideKeys
from agentidp.core import limits
from agentidp.core.outgoing import Bounds


def at(issuer: FakeIssuer, number: int) -> str:
    """One of many addresses at which the issuer publishes its keys."""
    address = f"/keys/{number}"
    issuer.answers[address] = (200, {"Cache-Control": "max-age=300"}, json.dumps({"keys": issuer.published}).encode())
    return issuer.url + address


def test_whoever_trusts_many_that_hang_leaves_room_for_others(issuer: FakeIssuer, clock: Clock) -> None:
    with serving_issuer(FakeIssuer()) as hanging:
        hanging.drips = True

        async def work(keys: OutsideKeys) -> None:
            asking = [
                asyncio.create_task(keys.find(hanging.url, "key", jwks_uri=at(hanging, number), whose="greedy"))
                for number in range(limits.OUTSIDE_LOADS_EACH_MAX + 1)
            ]
            await asyncio.sleep(0)
            assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
            found = await asyncio.gather(*asking, return_exceptions=True)
            assert {type(one) for one in found} == {IssuerUnreachable}
            assert len(set(hanging.requests)) == limits.OUTSIDE_LOADS_EACH_MAX, "the last had no turn"

        run(clock, work, turn_seconds=0.5)


def test_an_issuer_that_hangs_is_left_alone_from_when_it_was_given_up(issuer: FakeIssuer, clock: Clock) -> None:
    issuer.drips = True

    async def work(keys: OutsideKeys) -> None:
        async def later() -> None:
            while not issuer.requests:  # noqa: ASYNC110 - it is in another thread
                await asyncio.sleep(0.01)
            clock.pass_(limits.OUTSIDE_KEYS_RETRY_SECONDS + 1)  # so long does asking it take

        _, refused = await asyncio.gather(later(), unreachable(keys, issuer))
        asked = len(issuer.requests)
        assert refused
        assert await unreachable(keys, issuer)
        assert len(issuer.requests) == asked

    run(clock, work)


def test_what_is_asked_for_stays_when_others_come(issuer: FakeIssuer, clock: Clock) -> None:
    with serving_issuer(FakeIssuer("/b")) as second, serving_issuer(FakeIssuer("/c")) as third:

        async def work(keys: OutsideKeys) -> None:
            for one in (issuer, second, issuer, third, issuer):
                assert await keys.find(one.url, one.key.key_id, whose="acme")
            assert fetches(issuer) == 1

        run(clock, work, issuers_max=2)


def test_the_number_of_issuers_is_bounded(issuer: FakeIssuer, clock: Clock) -> None:
    with serving_issuer(FakeIssuer("/b")) as second, serving_issuer(FakeIssuer("/c")) as third:

        async def work(keys: OutsideKeys) -> None:
            for one in (issuer, second, third, issuer):
                assert await keys.find(one.url, one.key.key_id, whose="acme")
            assert (fetches(issuer), fetches(second), fetches(third)) == (2, 1, 1)

        run(clock, work, issuers_max=2)


def test_turns_are_given_back(issuer: FakeIssuer, clock: Clock) -> None:
    async def work(keys: OutsideKeys) -> None:
        for number in range(3 * limits.OUTSIDE_LOADS_EACH_MAX):
            assert await keys.find(issuer.url, issuer.key.key_id, jwks_uri=at(issuer, number), whose="acme")
            await keys.require(issuer.url, at(issuer, number), whose="acme")
        issuer.is_down = True
        for number in range(3 * limits.OUTSIDE_LOADS_EACH_MAX):
            with pytest.raises(IssuerUnreachable, match="cannot be asked"):
                await keys.find(issuer.url, "key", jwks_uri=f"{issuer.url}/{number}", whose="acme")

    run(clock, work, turn_seconds=0.1)


def test_many_that_are_well_wait_for_their_turn(issuer: FakeIssuer, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a restart: more than have a turn at once, of one organization and of all."""
    monkeypatch.setattr(limits, "OUTSIDE_LOADS_MAX", 6)

    async def work(keys: OutsideKeys) -> None:
        asked = [(at(issuer, number), f"org {number % 4}") for number in range(40)]
        found = await asyncio.gather(*(keys.find(issuer.url, issuer.key.key_id, jwks_uri=address, whose=whose) for address, whose in asked))
        assert None not in found

    run(clock, work)


def test_all_together_have_so_many_turns(issuer: FakeIssuer, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OUTSIDE_LOADS_MAX", 2)
    issuer.drips = True

    async def work(keys: OutsideKeys) -> None:
        asking = [keys.find(issuer.url, "key", jwks_uri=at(issuer, number), whose=f"org {number}") for number in range(5)]
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert sorted("Too many" in one.reason for one in found if isinstance(one, IssuerUnreachable)) == [False] * 2 + [True] * 3
        assert len(issuer.requests) == 2

    run(clock, work, turn_seconds=0.2)


def test_what_is_required_has_a_turn_as_everything_else(issuer: FakeIssuer, clock: Clock) -> None:
    with serving_issuer(FakeIssuer()) as hanging:
        hanging.drips = True

        async def work(keys: OutsideKeys) -> None:
            asking = [
                asyncio.create_task(keys.require(hanging.url, at(hanging, number), whose="greedy")) for number in range(4 * limits.OUTSIDE_LOADS_EACH_MAX)
            ]
            await asyncio.sleep(0.1)
            assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
            found = await asyncio.gather(*asking, return_exceptions=True)
            assert sum(isinstance(one, IssuerUnreachable) for one in found) == 3 * limits.OUTSIDE_LOADS_EACH_MAX
            assert len(hanging.requests) == limits.OUTSIDE_LOADS_EACH_MAX

        run(clock, work, turn_seconds=0.3)


def test_who_has_no_turn_keeps_it_from_nobody(issuer: FakeIssuer, clock: Clock) -> None:
    """`greedy` has used up its turns and begins to ask for what others want, too: they ask themselves, and nobody holds it against the issuer."""
    with serving_issuer(FakeIssuer()) as hanging:
        hanging.drips = True

        async def work(keys: OutsideKeys) -> None:
            hanging_ones = [
                asyncio.create_task(keys.find(hanging.url, "key", jwks_uri=at(hanging, number), whose="greedy"))
                for number in range(limits.OUTSIDE_LOADS_EACH_MAX)
            ]
            await asyncio.sleep(0.1)
            first = asyncio.create_task(unreachable(keys, issuer, whose="greedy"))
            await asyncio.sleep(0)
            assert not any(await asyncio.gather(*(unreachable(keys, issuer, whose=f"org {number}") for number in range(5))))
            assert await first
            assert fetches(issuer) == 1
            assert not await unreachable(keys, issuer, whose="greedy"), "it is known now"
            await asyncio.gather(*hanging_ones, return_exceptions=True)

        run(clock, work, turn_seconds=0.3)


def test_without_a_turn_what_was_known_will_do(issuer: FakeIssuer, clock: Clock) -> None:
    with serving_issuer(FakeIssuer()) as hanging:
        hanging.drips = True

        async def work(keys: OutsideKeys) -> None:
            known = await keys.find(issuer.url, issuer.key.key_id, whose="acme")
            asking = [
                asyncio.create_task(keys.find(hanging.url, "key", jwks_uri=at(hanging, number), whose="acme"))
                for number in range(limits.OUTSIDE_LOADS_EACH_MAX)
            ]
            await asyncio.sleep(0.1)
            clock.pass_(301)
            assert await keys.find(issuer.url, issuer.key.key_id, whose="acme") == known
            assert fetches(issuer) == 1
            await asyncio.gather(*asking, return_exceptions=True)
            assert await keys.find(issuer.url, issuer.key.key_id, whose="acme") == known
            assert fetches(issuer) == 2, "asked as soon as there was a turn"

        run(clock, work, turn_seconds=0.3)


def test_the_guard_has_no_turn_and_the_issuer_is_not_blamed(issuer: FakeIssuer, clock: Clock) -> None:
    async def work(keys: OutsideKeys) -> None:
        slow = asyncio.create_task(unreachable(keys, issuer))
        issuer.drips = True
        await asyncio.sleep(0.1)
        with serving_issuer(FakeIssuer()) as other:
            assert await unreachable(keys, other, whose="other")
            await slow
            assert not await unreachable(keys, other, whose="other"), "at once"

    run(clock, work, bounds=Bounds(seconds=1.0, requests=1, turn_seconds=0.1))


def test_one_organization_fills_only_its_part(issuer: FakeIssuer, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OUTSIDE_ISSUERS_EACH_MAX", 3)

    async def work(keys: OutsideKeys) -> None:
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        assert await keys.find(issuer.url, issuer.key.key_id, jwks_uri=at(issuer, 0), whose="greedy")
        assert await keys.find(issuer.url, issuer.key.key_id, jwks_uri=at(issuer, 0), whose="acme"), "of both from here on"
        for number in range(1, 20):
            assert await keys.find(issuer.url, issuer.key.key_id, jwks_uri=at(issuer, number), whose="greedy")
        issuer.requests.clear()
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        assert await keys.find(issuer.url, issuer.key.key_id, jwks_uri=at(issuer, 0), whose="acme")
        assert not issuer.requests
        assert await keys.find(issuer.url, issuer.key.key_id, jwks_uri=at(issuer, 1), whose="greedy")
        assert len(issuer.requests) == 1

    run(clock, work, issuers_max=6)


def test_an_unknown_key_of_an_issuer_that_is_down_is_neither_good_nor_bad(issuer: FakeIssuer, clock: Clock) -> None:
    """It may be one that came with a rotation. One look a minute, in vain or not."""

    async def work(keys: OutsideKeys) -> None:
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        issuer.is_down, known = True, issuer.key.key_id
        issuer.rotate(keep=True)
        clock.pass_(limits.OUTSIDE_UNKNOWN_KEY_SECONDS)
        for _ in range(20):
            assert await unreachable(keys, issuer)
            assert await keys.find(issuer.url, known, whose="acme"), "what is known is good"
        assert issuer.refused <= 2, "once, and once more on a new connection"
        issuer.requests.clear()
        assert await keys.find(issuer.url, None, whose="acme") is None
        issuer.is_down = False
        assert await unreachable(keys, issuer)
        assert not issuer.requests
        clock.pass_(limits.OUTSIDE_UNKNOWN_KEY_SECONDS)
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        assert await keys.find(issuer.url, "unknown", whose="acme") is None

    run(clock, work)


@pytest.mark.parametrize("is_stale", [False, True])
def test_an_unknown_key_makes_nobody_ask_twice(issuer: FakeIssuer, *, is_stale: bool) -> None:
    """Time passes while it is asked."""

    class Passing(Clock):
        def __call__(self) -> int:
            self.now += 1
            return self.now

    passing = Passing()

    async def work(keys: OutsideKeys) -> None:
        if is_stale:
            assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
            passing.pass_(301)
            issuer.is_down = True
            assert await unreachable(keys, issuer, "unknown")
            assert issuer.refused <= 2, "once, and once more because a kept connection may have been closed"
        else:
            assert await keys.find(issuer.url, "unknown", whose="acme") is None
            assert issuer.requests == [DISCOVERY, KEYS]

    run(passing, work)


@pytest.mark.parametrize("state", ["known", "failed", "unknown key"])
def test_a_clock_that_is_set_back_keeps_nobody_waiting(issuer: FakeIssuer, clock: Clock, state: str) -> None:
    async def work(keys: OutsideKeys) -> None:
        if state == "failed":
            issuer.is_down = True
            assert await unreachable(keys, issuer)
            issuer.is_down = False
        else:
            assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        if state == "unknown key":
            issuer.rotate()
        asked = len(issuer.requests)
        clock.pass_(-3600)
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        assert len(issuer.requests) == asked + 2

    run(clock, work)


def test_what_took_long_to_come_is_as_old_as_the_question(issuer: FakeIssuer, clock: Clock) -> None:
    async def work(keys: OutsideKeys) -> None:
        asking = asyncio.create_task(keys.find(issuer.url, issuer.key.key_id, whose="acme"))
        while not issuer.requests:  # noqa: ASYNC110 - it is in another thread
            await asyncio.sleep(0.001)
        clock.pass_(200)
        assert await asking
        clock.pass_(101)
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        assert fetches(issuer) == 2

    run(clock, work)


def test_an_issuer_with_a_slash_at_its_end(clock: Clock) -> None:
    """Azure's clusters have one."""
    with serving_issuer(FakeIssuer()) as running:
        running.url += "/"
        running.answers["//keys"] = (200, {}, json.dumps({"keys": running.published}).encode())

        async def work(keys: OutsideKeys) -> None:
            assert await keys.find(running.url, running.key.key_id, whose="acme")
            assert running.requests[0] == DISCOVERY

        run(clock, work)


def test_a_key_without_a_name_is_none(issuer: FakeIssuer, clock: Clock) -> None:
    issuer.published = [IssuerKey("").jwk | {"kid": ""}, {name: value for name, value in IssuerKey().jwk.items() if name != "kid"}, issuer.key.jwk]

    async def work(keys: OutsideKeys) -> Any:
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        return [await keys.find(issuer.url, key_id, whose="acme") for key_id in ("", None)]

    assert run(clock, work) == [None, None]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"is_down": True}, "Its discovery document: "),
        ({"answers": {DISCOVERY: (404, {}, b"")}}, "Its discovery document is answered with status 404"),
        ({"answers": {DISCOVERY: (200, {}, b'{"issuer": "x", "jwks_uri": "x"}')}}, "names another issuer"),
        ({"answers": {KEYS: (200, {}, b"<html>")}}, "Its key set is no JSON"),
        ({"answers": {KEYS: (200, {}, b"{}")}}, "Its key set has no list of at most 64 keys"),
    ],
)
def test_whoever_trusts_an_issuer_learns_why_its_keys_cannot_be_had(issuer: FakeIssuer, clock: Clock, change: dict[str, Any], said: str) -> None:
    for name, value in change.items():
        setattr(issuer, name, value)

    async def work(keys: OutsideKeys) -> None:
        for _ in range(2):
            with pytest.raises(IssuerUnreachable) as refused:
                await keys.find(issuer.url, "key", whose="acme")
            assert said in refused.value.reason
            assert said not in refused.value.detail, "a stranger does not"
            assert refused.value.headers["Retry-After"] == str(limits.OUTSIDE_KEYS_RETRY_SECONDS)

    run(clock, work)


def test_who_has_stale_keys_does_not_wait_for_an_issuer_that_is_slow(issuer: FakeIssuer, clock: Clock) -> None:
    """The first waits a little, the others not at all; and what comes in the end counts."""

    async def work(keys: OutsideKeys) -> None:
        known = await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        old = issuer.key.key_id
        issuer.rotate()
        issuer.pause_seconds = 0.3
        clock.pass_(301)
        assert await keys.find(issuer.url, old, whose="acme") == known
        assert fetches(issuer) == 1, "it goes on"
        assert [await keys.find(issuer.url, old, whose="acme") for _ in range(5)] == [known] * 5
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme"), "what is not known is waited for"
        assert await keys.find(issuer.url, old, whose="acme") is None
        assert fetches(issuer) == 2

    run(clock, work, wait_seconds=0.05)


def test_an_issuer_has_so_long_for_both_documents(issuer: FakeIssuer, clock: Clock) -> None:
    issuer.pause_seconds = 0.2

    async def work(keys: OutsideKeys) -> None:
        with pytest.raises(IssuerUnreachable) as refused:
            await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        assert "has not answered whole within 0.3 seconds" in refused.value.reason

    run(clock, work, seconds_max=0.3)
