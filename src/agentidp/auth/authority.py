"""Is a token that we once signed still good? Decided on a snapshot, confirmed by the ledger's commit; if it cannot be had, the answer is never yes."""

from collections.abc import Awaitable, Callable

from agentidp.auth.dpop import Proof, invalid_proof
from agentidp.auth.instance import Instance
from agentidp.auth.jwt import Foundation, VerifiedClaims
from agentidp.auth.registration import is_open
from agentidp.core.caller import OPERATOR_SCOPE, AuditEntry, Caller, Origin
from agentidp.core.errors import Problem, TooManyCalls
from agentidp.ledger.entries import Entry, Event, Snapshot, Verdict


class TokenIsDead(Problem):
    """Raised and caught between here and whoever asked; never shown."""


async def is_alive(
    instance: Instance,
    token: VerifiedClaims,
    *,
    meter: str | None = None,
    event: Event | None = None,
    essential: bool = False,
    admit: Callable[[Snapshot], Awaitable[None]] | None = None,
    proof: Proof | None = None,
) -> bool:
    """Whether organization, agent, credential, signing key and the token itself are all in force.

    The question is itself an entry of the ledger: what it counts and records is durable when the answer arrives. The operator's calls are counted,
    but never refused: somebody must be able to help. `admit` may refuse whoever the snapshot says it is, before anything is counted. `proof` is used up.
    Raises TooManyCalls, InvalidProof for a proof that was used before, Unavailable, and what `admit` raises.
    """
    if token.is_registration:
        return await instance.database.write(is_open, Caller(token.organization_id, origin=event.origin if event else Origin()), token, event)

    async def decide(snapshot: Snapshot | None) -> tuple[Entry, None]:
        if snapshot is None or not is_in_force(snapshot, token, instance.clock()):
            raise TokenIsDead
        if admit is not None:
            await admit(snapshot)
        for foundation in token.rests_on:
            if not await _stands(instance, token.organization_id, foundation):
                raise TokenIsDead
        return (
            Entry(
                snapshot,
                meter,
                event,
                token_id=token.token_id,
                token_issued_at=token.issued_at * 1000,
                key_id=token.key_id,
                essential=essential or OPERATOR_SCOPE in token.scopes,
                once=(proof.once,) if proof is not None else (),
            ),
            None,
        )

    try:
        entry, _ = await instance.ledger.settle(lambda: instance.ledger.snapshots.find(token.organization_id, token.credential_id), decide, lambda _: None)
    except TokenIsDead:
        return False
    require_call(entry, instance.clock())
    if entry.verdict is Verdict.REPLAYED:
        raise invalid_proof("used before")
    return entry.verdict is Verdict.RECORDED


def require_call(entry: Entry, now: int) -> None:
    """Raises TooManyCalls, with its audit event, when the commit found the organization's calls of the day used up."""
    if entry.verdict is Verdict.OVER_LIMIT:
        known = entry.snapshot
        raise TooManyCalls(
            now,
            audit=[
                AuditEntry(
                    "access.denied",
                    "failure",
                    "credential",
                    known.credential_id,
                    known.organization_id,
                    known.agent_id,
                    {"reason": "the organization's calls of today are used up"},
                )
            ],
        )


async def _stands(instance: Instance, organization_id: str, token: Foundation) -> bool:
    """The same of a token that another one was made from."""

    async def decide(snapshot: Snapshot | None) -> tuple[Entry, None]:
        if snapshot is None or not is_in_force(snapshot, token, instance.clock()):
            raise TokenIsDead
        return Entry(snapshot, token_id=token.token_id, token_issued_at=token.issued_at * 1000, key_id=token.key_id), None

    try:
        entry, _ = await instance.ledger.settle(lambda: instance.ledger.snapshots.find(organization_id, token.credential_id), decide, lambda _: None)
    except TokenIsDead:
        return False
    return entry.verdict is Verdict.RECORDED


def is_in_force(snapshot: Snapshot, token: VerifiedClaims | Foundation, now: int) -> bool:
    """Whether the credential, its agent and its organization are as they were when the token was issued, as far as the snapshot goes."""
    return (
        snapshot.is_active(now)
        and snapshot.revoked_at is None
        and (snapshot.expires_at is None or snapshot.expires_at > now)
        and snapshot.agent_id == token.agent_id
        and snapshot.token_epoch == token.epoch
    )
