"""Deciding on a snapshot, and deciding again: with a database that answers as it is told."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.ledger.test_entries import SNAPSHOT

from agentidp.core.errors import Forbidden, Problem, Unavailable
from agentidp.ledger.entries import Entry, Snapshot, Verdict
from agentidp.ledger.ledger import Ledger


class ToldDatabase:
    """Gives every appended entry the next of these verdicts; an error instead of one is what the commit raises."""

    def __init__(self, *verdicts: Verdict | Exception) -> None:
        self._verdicts = list(verdicts)
        self.appended = 0

    def append(self, entry: Entry) -> "asyncio.Future[None]":
        self.appended += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        verdict = self._verdicts.pop(0)
        if isinstance(verdict, Exception):
            asyncio.get_running_loop().call_soon(future.set_exception, verdict)
            return future
        entry.verdict = verdict
        asyncio.get_running_loop().call_soon(future.set_result, None)
        return future


class Told:
    """One `settle`, and how often each of its steps was asked."""

    def __init__(self, database: ToldDatabase, *, cached: bool = True) -> None:
        self.database, self.ledger = database, Ledger(database, {})  # type: ignore[arg-type]  # all that it needs
        self.found, self.prepared = 0, 0
        if cached:
            self.ledger.snapshots._by_id["o1", "c1"] = SNAPSHOT

    def settle(self, decide: Callable[[Snapshot | None], tuple[Entry, str]], *, exists: bool = True) -> tuple[Entry, str]:
        async def find() -> Snapshot | None:
            self.found += 1
            return SNAPSHOT if exists else None

        def prepare(decision: str) -> str:
            self.prepared += 1
            return f"{decision}, signed"

        async def decide_now(snapshot: Snapshot | None) -> tuple[Entry, str]:
            return decide(snapshot)

        return asyncio.run(self.ledger.settle(find, decide_now, prepare))

    @property
    def is_cached(self) -> bool:
        return ("o1", "c1") in self.ledger.snapshots._by_id


def grant(snapshot: Snapshot | None) -> tuple[Entry, str]:
    assert snapshot is not None
    return Entry(snapshot), "yes"


def refuse(_: Snapshot | None) -> Any:
    raise Forbidden


@pytest.mark.parametrize("verdict", [Verdict.RECORDED, Verdict.DEAD, Verdict.OVER_LIMIT])
def test_a_confirmed_snapshot_is_decided_on_once(verdict: Verdict) -> None:
    told = Told(ToldDatabase(verdict))
    entry, answer = told.settle(grant)
    assert (entry.verdict, answer, told.found, told.prepared) == (verdict, "yes, signed", 1, 1)
    assert told.is_cached


def test_a_grant_on_a_stale_snapshot_is_decided_again_once() -> None:
    told = Told(ToldDatabase(Verdict.STALE, Verdict.RECORDED))
    entry, _ = told.settle(grant)
    assert (entry.verdict, told.found, told.database.appended) == (Verdict.RECORDED, 2, 2)
    assert not told.is_cached  # this `find` does not cache


def test_what_keeps_changing_is_given_up() -> None:
    told = Told(ToldDatabase(Verdict.STALE, Verdict.STALE))
    with pytest.raises(Unavailable):
        told.settle(grant)
    assert told.database.appended == 2


def test_a_refusal_is_decided_again_on_a_fresh_snapshot() -> None:
    told = Told(ToldDatabase(Verdict.RECORDED))

    def decide(snapshot: Snapshot | None) -> tuple[Entry, str]:
        return grant(snapshot) if told.found == 2 else refuse(snapshot)

    assert told.settle(decide)[1] == "yes, signed"
    assert not told.is_cached


def test_a_refusal_on_a_fresh_snapshot_stands() -> None:
    told = Told(ToldDatabase())
    with pytest.raises(Forbidden):
        told.settle(refuse)
    assert (told.found, told.prepared, told.database.appended) == (2, 0, 0)


def test_what_does_not_exist_is_looked_for_once() -> None:
    told = Told(ToldDatabase())
    with pytest.raises(Forbidden):
        told.settle(refuse, exists=False)
    assert told.found == 1


@pytest.mark.parametrize("error", [Unavailable(), Problem()])
def test_a_failed_commit_is_the_answer(error: Problem) -> None:
    told = Told(ToldDatabase(error))
    with pytest.raises(type(error)):
        told.settle(grant)
    assert told.is_cached
