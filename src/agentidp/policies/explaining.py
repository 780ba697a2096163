"""Why a token is refused: the commonest question about trust policies. Issues nothing, uses nothing up, and shows nothing but what the policies ask for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from agentidp.agents.queries import get_agent
from agentidp.agents.rules import is_active
from agentidp.auth.instance import Instance
from agentidp.auth.jws import InvalidToken
from agentidp.auth.outside_jwt import OutsideToken, UnverifiedOutside, outside_jti, parse_outside, verify_outside
from agentidp.auth.outside_keys import IssuerUnreachable
from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.db.unit import Tx
from agentidp.ledger.entries import OneTime
from agentidp.ledger.one_time import was_used
from agentidp.policies.known import policies_of
from agentidp.policies.providers import NO_TEXT, by_path, texts_of
from agentidp.policies.queries import find_status
from agentidp.policies.rules import Check, NoPolicyMatches, Policy, checks, choose


@dataclass(frozen=True, slots=True)
class Explained:
    """As the API's `Explanation`."""

    accepted: bool
    reason: str | None
    policy_id: str | None = None
    agent_id: str | None = None
    stopped_by: tuple[Check, ...] = ()


async def explain(instance: Instance, organization_id: str, unverified_token: str) -> Explained:
    """What the token says of itself is compared even when its signature is wrong or its time is over: it is the caller's own."""
    try:
        unverified = parse_outside(unverified_token)
    except InvalidToken as error:
        return Explained(accepted=False, reason=str(error))
    policies = [policy for policy in await policies_of(instance).of(organization_id, fresh=True) if policy.issuer == unverified.issuer]
    if not policies:
        return Explained(accepted=False, reason=f"no trust policy of the organization names the issuer {_bounded(unverified.issuer)}")
    token, reason = await _verified(instance, organization_id, unverified)
    obstacles = [(policy, _obstacles(policy, unverified)) for policy in policies]
    nearest, stopped_by = min(obstacles, key=lambda pair: len(pair[1]))
    if reason is None and not stopped_by:
        try:
            nearest = choose([policy for policy, found in obstacles if not found], None)
            reason = await instance.database.read(_stopped, Caller(organization_id), nearest, None if token is None else outside_jti(token))
        except NoPolicyMatches as refused:
            reason = refused.detail
    return Explained(not stopped_by and reason is None, reason, nearest.policy_id, nearest.agent_id, stopped_by)


async def _verified(instance: Instance, organization_id: str, unverified: UnverifiedOutside) -> tuple[OutsideToken | None, str | None]:
    """The token, or what is wrong with it, whatever the policies say."""
    try:
        return await verify_outside(unverified, instance.outside_keys, instance.clock, whose=organization_id), None
    except InvalidToken as error:
        return None, str(error)
    except IssuerUnreachable as error:
        return None, f"the keys of its issuer cannot be had, and it cannot be verified without: {error.reason}"


def _stopped(tx: Tx, policy: Policy, once: OneTime | None) -> str | None:
    """What else stops a token that the policy accepts."""
    if once is not None and was_used(tx, once):
        return "it has been used before; each is good for one exchange"
    if find_status(tx) != "active":
        return "the organization is not active"
    agent = None if policy.agent_id is None else get_agent(tx, policy.agent_id)
    if agent is not None and not is_active(agent.status, agent.expires_at, tx.now):
        return "the policy's agent is not active"
    if agent is not None and not policy.allowed_scopes(frozenset(agent.scopes)):
        return "the policy and its agent have no scope in common"
    return None


def _obstacles(policy: Policy, unverified: UnverifiedOutside) -> tuple[Check, ...]:
    """One for each claim: the last, which asks for most."""
    claims: Mapping[str, Any] = unverified.token.payload
    unmet = {one.claim: one for one in checks(policy, texts_of(policy.provider, claims), unverified.audience) if not one.is_met}
    raw = by_path(policy.provider, claims)
    return tuple(Check(one.claim, _bounded(one.expected), _received(one, raw), is_met=False) for one in unmet.values())


def _received(check: Check, raw: Mapping[str, Any]) -> str | None:
    """What is no text is shown as the JSON that it is."""
    shown = msgspec.json.encode(raw[check.claim]).decode() if check.received == NO_TEXT else check.received
    return None if shown is None else _bounded(shown)


def _bounded(text: str) -> str:
    return text if len(text) <= limits.CLAIM_CHARACTERS_MAX else f"{text[: limits.CLAIM_CHARACTERS_MAX]}…"
