"""Making and deleting trust policies, and recording which repository a name stands for. A policy is never changed: another one is made."""

from typing import Final

import sqlalchemy as sa

from agentidp.agents.rules import OrganizationNotActive
from agentidp.auth.scopes import DEFAULT_SCOPES, require_grantable, to_text
from agentidp.core import limits
from agentidp.core.ids import new_id
from agentidp.credentials.actions import generate_policy_credential, renew_policy_credentials, revoke_policy_credential
from agentidp.db.schema import trust_policies
from agentidp.db.unit import Tx
from agentidp.ledger.entries import OneTime
from agentidp.ledger.one_time import was_used
from agentidp.policies.queries import count_policies, get_policy, lock_organization
from agentidp.policies.rules import NewPolicy, OutsideTokenReplayed, Policy, TooManyPolicies

_REGISTERS: Final = frozenset({"agents:write"})  # what a policy without agent gives away, once for each token


def create_policy(tx: Tx, new: NewPolicy) -> Policy:
    """Nobody gives away by a policy what he does not hold.

    Raises OrganizationNotActive, TooManyPolicies, InvalidScopes, and what `generate_policy_credential` does.
    """
    if lock_organization(tx) != "active":  # it was when the call came in
        raise OrganizationNotActive
    if count_policies(tx) >= limits.TRUST_POLICIES_MAX:
        raise TooManyPolicies
    policy_id, credential_id = new_id(tx.now), None
    repository_id, repository_owner_id = _numbers(tx, new) or (None, None)
    if new.agent_id is None:
        require_grantable(_REGISTERS | (DEFAULT_SCOPES if new.scopes is None else new.scopes), tx.caller.scopes)
    else:
        require_grantable(new.scopes or frozenset(), tx.caller.scopes)
        credential_id = generate_policy_credential(tx, new.agent_id, policy_id, new.scopes)
    tx.run(
        sa.insert(trust_policies).values(
            organization_id=tx.caller.organization_id,
            policy_id=policy_id,
            provider=new.provider,
            issuer=new.issuer,
            audience=new.audience,
            repository=new.repository,
            branch=new.branch,
            conditions=dict(new.conditions),
            agent_id=new.agent_id,
            scopes=None if new.scopes is None else to_text(new.scopes),
            credential_id=credential_id,
            repository_id=repository_id,
            repository_owner_id=repository_owner_id,
            created_at=tx.now,
            updated_at=tx.now,
        )
    )
    renew_policy_credentials(tx)
    tx.record("policy.created", "policy", policy_id, provider=new.provider, issuer=new.issuer, repository=new.repository, agentId=new.agent_id)
    return get_policy(tx, policy_id)


def delete_policy(tx: Tx, policy_id: str) -> None:
    """From the commit on nothing is issued by it, and what was is dead. Raises PolicyNotFound."""
    lock_organization(tx)
    policy = get_policy(tx, policy_id)
    tx.run(sa.delete(trust_policies).where(trust_policies.c.organization_id == tx.caller.organization_id, trust_policies.c.policy_id == policy_id))
    if policy.credential_id is not None:
        revoke_policy_credential(tx, policy.credential_id)
    renew_policy_credentials(tx)
    tx.record("policy.deleted", "policy", policy_id, agentId=policy.agent_id)


def record_repository(tx: Tx, policy_id: str, numbers: tuple[str, ...], unused: OneTime | None = None) -> Policy:
    """Let the repository that the policy names be the one with these numbers (its own, its owner's) for good, in all of the organization's policies.

    Unless one has it as another: the first to come decides. Raises PolicyNotFound, and OutsideTokenReplayed for a token whose one-time value is not `unused`: it
    decides nothing.
    """
    lock_organization(tx)
    policy = get_policy(tx, policy_id)
    if unused is not None and was_used(tx, unused):
        raise OutsideTokenReplayed
    known = _numbers(tx, policy)
    columns = dict(zip(("repository_id", "repository_owner_id"), known or numbers, strict=True))
    unrecorded = sa.and_(trust_policies.c.organization_id == tx.caller.organization_id, trust_policies.c.repository_id.is_(None), _names_same(policy))
    tx.run(sa.update(trust_policies).where(unrecorded).values(**columns, updated_at=tx.now))
    if known is None:
        tx.record("policy.repository_recorded", "policy", policy_id, repositoryId=numbers[0], repositoryOwnerId=numbers[1])
    return get_policy(tx, policy_id)


def _numbers(tx: Tx, policy: Policy | NewPolicy) -> tuple[str, str] | None:
    """Those of the repository that it names, once a policy of the organization that names it, too, has been used."""
    if policy.repository is None:
        return None
    columns = (trust_policies.c.repository_id, trust_policies.c.repository_owner_id)
    known = sa.and_(trust_policies.c.organization_id == tx.caller.organization_id, columns[0].is_not(None), _names_same(policy))
    row = tx.one(sa.select(*columns).where(known).order_by(trust_policies.c.policy_id).limit(1))
    return None if row is None else (row.repository_id, row.repository_owner_id)


def _names_same(policy: Policy | NewPolicy) -> sa.ColumnElement[bool]:
    """Of a row: that it names the same repository of the same issuer."""
    return sa.and_(*(trust_policies.c[name] == getattr(policy, name) for name in ("provider", "issuer", "repository")))
