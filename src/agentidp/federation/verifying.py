"""Whether a token is one that a partner made, and is good now. Issues nothing, lets nobody in, and uses nothing up.

The keys are those at the partner's own `jwksUri`: what another issuer publishes, or the same one by its discovery document, verifies nothing here.
"""

from dataclasses import dataclass

from agentidp.auth.instance import Instance
from agentidp.auth.jws import InvalidToken
from agentidp.auth.outside_jwt import UnverifiedOutside, read_outside, verify_outside
from agentidp.auth.outside_keys import NotAKeySet
from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.core.errors import InvalidAddress, Unavailable
from agentidp.core.http import printable
from agentidp.core.outgoing import Blocked, Unreachable
from agentidp.federation.actions import record_verification
from agentidp.federation.queries import find_partner_by_issuer
from agentidp.federation.rules import (
    TOKEN_TYPES,
    FederationUnreachable,
    Partner,
    Verification,
    organization_of,
    wrong_with_audience,
    wrong_with_organization,
)
from agentidp.policies.rules import organization_audience


async def require_keys(instance: Instance, caller: Caller, issuer: str, jwks_uri: str) -> None:
    """Fetches them. Raises InvalidAddress, FederationUnreachable."""
    try:
        await instance.outside_keys.require(issuer, jwks_uri, whose=caller.organization_id)
    except Blocked as error:
        raise InvalidAddress("jwksUri", str(error), error.reason) from error
    except (Unreachable, NotAKeySet) as error:
        raise FederationUnreachable(details={"reason": str(error)}) from error


@dataclass(frozen=True, slots=True)
class Expected:
    """What whoever asks knows already; None: anybody's."""

    issuer: str | None = None
    audience: str | None = None


async def verify(instance: Instance, caller: Caller, unverified_token: str, expected: Expected) -> Verification:
    """The answer is on record when this returns. Raises IssuerUnreachable when nobody can tell: then the token is neither good nor bad."""
    partner = None
    try:
        unverified = read_outside(unverified_token, TOKEN_TYPES)
        partner = await _partner(instance, caller, unverified, expected)
        found = await _verified(instance, caller, unverified, partner, expected)
    except InvalidToken as error:
        found = Verification(valid=False, reason=str(error), partner_id=partner.partner_id if partner else None)
    subject = None if found.subject is None else printable(found.subject, limits.CLAIM_CHARACTERS_MAX)
    await instance.database.write(record_verification, caller, found, subject=subject)
    return found


async def _partner(instance: Instance, caller: Caller, unverified: UnverifiedOutside, expected: Expected) -> Partner:
    """Whose token it says to be. Raises InvalidToken unless that is a partner."""
    if expected.issuer is not None and unverified.issuer != expected.issuer:
        raise InvalidToken("iss is not the expected issuer")
    if unverified.issuer == instance.settings.issuer:
        raise InvalidToken("it is a token of this server: POST /api/v1/token/introspect tells about those")
    partner = await instance.database.read(find_partner_by_issuer, caller, unverified.issuer)
    if partner is None:
        raise InvalidToken("no partner of your organization has its issuer")
    return partner


async def _verified(instance: Instance, caller: Caller, unverified: UnverifiedOutside, partner: Partner, expected: Expected) -> Verification:
    """Raises InvalidToken, IssuerUnreachable, Unavailable."""
    if partner.status != "active":
        raise InvalidToken(f"the partner is {partner.status}")
    token = await verify_outside(unverified, instance.outside_keys, instance.clock, whose=caller.organization_id, jwks_uri=partner.jwks_uri)
    now = await _partner(instance, caller, unverified, expected)  # asking for its keys may have taken long
    if now.status != "active":
        raise InvalidToken(f"the partner is {now.status}")
    if (now.partner_id, now.jwks_uri) != (partner.partner_id, partner.jwks_uri):  # other keys are asked for next time
        raise Unavailable("The partner has been changed meanwhile; nothing was done. Please try again.")
    own = instance.settings.issuer, organization_audience(instance.settings.issuer, caller.organization_id)
    reason = wrong_with_audience(unverified.audiences, expected.audience, own)
    reason = reason or wrong_with_organization(token.claims, now.allowed_organizations, caller.organization_id)
    if reason is not None:
        raise InvalidToken(reason)
    return Verification(
        valid=True,
        partner_id=now.partner_id,
        issuer=token.issuer,
        subject=token.subject,
        organization_id=organization_of(token.claims),
        claims=token.claims,
    )
