"""Is a token that we once signed still good? Decided on a snapshot, confirmed by the ledger's commit; if it cannot be had, the answer is never yes."""

from agentidp.auth.instance import Instance
from agentidp.auth.jwt import VerifiedClaims
from agentidp.core.errors import Problem
from agentidp.ledger.entries import Entry, Event, Snapshot, Verdict


class TokenIsDead(Problem):
    """Raised and caught between here and whoever asked; never shown."""


async def is_alive(
    instance: Instance,
    token: VerifiedClaims,
    *,
    meter: str | None = None,
    event: Event | None = None,
) -> bool:
    """Whether organization, agent, credential, signing key and the token itself are all in force.

    The question is itself an entry of the ledger: what it counts and records is durable when the answer arrives. Raises Unavailable.
    """

    def decide(snapshot: Snapshot | None) -> tuple[Entry, None]:
        if snapshot is None or not _in_force(snapshot, token, instance.clock()):
            raise TokenIsDead
        entry = Entry(snapshot, meter, event, token_id=token.token_id, token_issued_at=token.issued_at * 1000, key_id=token.key_id)
        return entry, None

    try:
        entry, _ = await instance.ledger.settle(lambda: instance.ledger.snapshots.find(token.organization_id, token.credential_id), decide, lambda _: None)
    except TokenIsDead:
        return False
    return entry.verdict is Verdict.RECORDED


def _in_force(snapshot: Snapshot, token: VerifiedClaims, now: int) -> bool:
    return (
        snapshot.is_active(now)
        and snapshot.revoked_at is None
        and (snapshot.expires_at is None or snapshot.expires_at > now)
        and snapshot.agent_id == token.agent_id
        and snapshot.token_epoch == token.epoch
    )
