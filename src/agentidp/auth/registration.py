"""The token that registers one agent and does nothing else: what a trust policy without agent gives. Subject, client and credential are the policy.

Its scope is in no list, so nobody is granted it and no operation but that one asks for it. It is good while its policy is there, and until it is used.
"""

import sqlalchemy as sa

from agentidp.auth.jwt import VerifiedClaims
from agentidp.auth.scopes import DEFAULT_SCOPES
from agentidp.core.caller import AuditEntry, Registration
from agentidp.core.errors import Unauthenticated
from agentidp.db.schema import instance, organizations, revoked_tokens, trust_policies
from agentidp.db.unit import Tx
from agentidp.ledger.entries import Event, OneTime
from agentidp.ledger.one_time import claim_once, was_used


class RegistrationUsed(Unauthenticated):
    title = "The token was for registering one agent, and has done so."


def registration_of(token: VerifiedClaims) -> Registration:
    return Registration(token.credential_id, token.token_id, token.issued_at * 1000, token.expires_at * 1000)


def is_open(tx: Tx, token: VerifiedClaims, event: Event | None) -> bool:
    """Whether the token may still register an agent; if so, the event is left in this transaction."""
    mine = tx.caller.organization_id
    in_force = (
        sa.select(trust_policies.c.policy_id)
        .join(organizations, organizations.c.organization_id == trust_policies.c.organization_id)
        .where(trust_policies.c.organization_id == mine, trust_policies.c.policy_id == token.credential_id)
        .where(trust_policies.c.agent_id.is_(None), organizations.c.status == "active")
    )
    revoked = sa.select(revoked_tokens.c.token_id).where(revoked_tokens.c.organization_id == mine, revoked_tokens.c.token_id == token.token_id)
    floor = tx.one(sa.select(instance.c.tokens_not_before))
    is_too_old = floor is not None and token.issued_at * 1000 < (floor.tokens_not_before or 0)
    if is_too_old or tx.one(in_force) is None or tx.one(revoked) is not None or was_used(tx, _one_time(registration_of(token))):
        return False
    if event is not None:
        tx.entries.append(AuditEntry(event.action, "success", event.target_type, event.target_id, agent_id=event.agent_id, metadata={"active": True}))
    return True


def use(tx: Tx, registration: Registration) -> frozenset[str]:
    """Use the token up; returns the scopes that the new agent may have. Raises RegistrationUsed."""
    used = AuditEntry("auth.failed", "failure", "policy", registration.policy_id, metadata={"reason": "registration token used before"})
    if not claim_once(tx, _one_time(registration)):
        raise RegistrationUsed(audit=[used])
    query = sa.select(trust_policies.c.scopes).where(
        trust_policies.c.organization_id == tx.caller.organization_id, trust_policies.c.policy_id == registration.policy_id
    )
    policy = tx.one(query)
    if policy is None:
        raise RegistrationUsed("The trust policy that the token was issued by is gone.", audit=[used])
    return DEFAULT_SCOPES if policy.scopes is None else frozenset(policy.scopes.split())


def _one_time(registration: Registration) -> OneTime:
    return OneTime.of("registration", registration.token_id, issued_at=registration.issued_at, expires_at=registration.expires_at)
