"""Why a token is refused: the commonest question about trust policies. Issues nothing, uses nothing up, and shows nothing but what the policies ask for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentidp.auth.instance import Instance
from agentidp.auth.jws import InvalidToken
from agentidp.auth.outside_jwt import UnverifiedOutside, parse_outside, verify_outside
from agentidp.auth.outside_keys import IssuerUnreachable
from agentidp.core import limits
from agentidp.policies.known import policies_of
from agentidp.policies.providers import texts_of
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
    reason = await _reason(instance, organization_id, unverified)
    obstacles = [(policy, _obstacles(policy, unverified)) for policy in policies]
    nearest, stopped_by = min(obstacles, key=lambda pair: len(pair[1]))
    if reason is None and not stopped_by:
        try:
            nearest = choose([policy for policy, found in obstacles if not found], None)
        except NoPolicyMatches as refused:
            reason = refused.detail
    return Explained(not stopped_by and reason is None, reason, nearest.policy_id, nearest.agent_id, stopped_by)


async def _reason(instance: Instance, organization_id: str, unverified: UnverifiedOutside) -> str | None:
    try:
        await verify_outside(unverified, instance.outside_keys, instance.clock, whose=organization_id)
    except InvalidToken as error:
        return str(error)
    except IssuerUnreachable as error:
        return f"the keys of its issuer cannot be had, and it cannot be verified without: {error.reason}"
    return None


def _obstacles(policy: Policy, unverified: UnverifiedOutside) -> tuple[Check, ...]:
    claims: Mapping[str, Any] = unverified.token.payload
    found = checks(policy, texts_of(policy.provider, claims), unverified.audience)
    return tuple(
        Check(one.claim, _bounded(one.expected), None if one.received is None else _bounded(one.received), is_met=False) for one in found if not one.is_met
    )


def _bounded(text: str) -> str:
    return text if len(text) <= limits.CLAIM_CHARACTERS_MAX else f"{text[: limits.CLAIM_CHARACTERS_MAX]}…"
