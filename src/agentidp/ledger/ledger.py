"""Deciding on a snapshot, appending the decision, and deciding again when the snapshot was out of date."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from agentidp.core.errors import Problem, Unavailable
from agentidp.core.plans import Plans
from agentidp.db.unit import Database
from agentidp.ledger.entries import ClientKeys, Entry, SecretSnapshot, Snapshot, Verdict
from agentidp.ledger.snapshots import Snapshots

S = TypeVar("S", bound=Snapshot | SecretSnapshot | ClientKeys)
D = TypeVar("D")
T = TypeVar("T")


class Ledger:
    """What endpoints append to. Nothing is acknowledged before it is durable, nothing is granted on a snapshot that the commit has not confirmed."""

    def __init__(self, database: Database, plans: Plans) -> None:
        self._database = database
        self.snapshots = Snapshots(database, plans)

    async def settle(
        self,
        find: Callable[[], Awaitable[S | None]],
        decide: Callable[[S | None], Awaitable[tuple[Entry, D]]],
        prepare: Callable[[D], T],
    ) -> tuple[Entry, T]:
        """Decide, append, and prepare the answer while the commit is under way; returns the entry, which has its verdict, and the answer.

        Both a grant and a refusal (a Problem raised by `decide`) may come from a cached snapshot that is out of date: a refusal is
        decided again on a fresh one unless it is final, a grant when the commit finds it stale. Raises what `decide` raises, and Unavailable.
        """
        for fresh in (False, True):
            snapshot = await find()
            try:
                entry, decision = await decide(snapshot)
            except Problem as problem:
                if fresh or snapshot is None or problem.is_final:
                    raise
                self.snapshots.forget(snapshot)
                continue
            recorded = self._database.append(entry)
            answer = prepare(decision)
            await recorded
            if entry.verdict is not Verdict.STALE:
                return entry, answer
            if snapshot is not None:
                self.snapshots.forget(snapshot)
        raise Unavailable("What the decision rests on keeps changing; nothing was done. Please try again.")
