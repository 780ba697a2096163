"""A token of another issuer for one of ours, by the trust policies of the organization that its audience names.

In this order: whose is it by what it says, does anybody there trust its issuer, did that issuer sign it, which policy does it satisfy. Only then is it used up, in the
same transaction as what is issued for it.
"""

import functools
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import msgspec
from starlette.requests import Request

from agentidp.auth import throttle
from agentidp.auth.dpop import DPOP_PROOF, Proof, invalid_proof, read_proof
from agentidp.auth.guard import origin
from agentidp.auth.instance import Instance, instance_of
from agentidp.auth.jws import InvalidToken
from agentidp.auth.outside_jwt import OutsideToken, UnverifiedOutside, outside_jti, parse_outside, require_claims, require_signature
from agentidp.auth.scopes import REGISTRATION_SCOPE
from agentidp.core import limits
from agentidp.core.caller import OPERATOR_SCOPE, AuditEntry, Caller, Origin
from agentidp.core.errors import InvalidScopes, Unavailable
from agentidp.core.http import printable
from agentidp.core.ids import is_id
from agentidp.ledger.entries import Entry, Snapshot, Verdict
from agentidp.ledger.one_time import claim_once
from agentidp.policies import actions as policy_actions
from agentidp.policies.known import policies_of
from agentidp.policies.providers import PROVIDERS, texts_of
from agentidp.policies.rules import (
    NoPolicyMatches,
    OutsideTokenInvalid,
    OutsideTokenReplayed,
    Policy,
    PolicyNotFound,
    choose,
    is_satisfied,
    numbers_to_record,
    organization_of,
)
from agentidp.tokens.actions import Basis, exchange_refused, issue_registration_token, issue_token, note_use, over_limit
from agentidp.tokens.grants.client_credentials import token_answer
from agentidp.tokens.rules import InvalidTarget, IssuedToken, TooManyTokens, UnauthorizedClient


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for beside the token itself. `audience` empty: the default one."""

    grant: str
    agent_id: str | None = None
    scope: str | None = None
    audience: tuple[str, ...] = ()


async def exchange(request: Request, unverified_token: str, wanted: Wanted) -> dict[str, Any]:
    """The token answer (RFC 6749 section 5.1). Raises ExchangeRefused, InvalidScopes, InvalidTarget, UnauthorizedClient, RateLimited, TooManyTokens, Unavailable.

    Also InvalidProof, NonceNeeded. A token that registers an agent is bound to no key.
    """
    instance, source, proof = instance_of(request), origin(request), read_proof(request)
    organization_id, token = await _verified(request, unverified_token)
    found = _Chosen(instance, organization_id, token, wanted, source)
    policy = await found.policy(fresh=False)
    if policy.agent_id is None:
        policy = await found.policy(fresh=True)  # no credential stands for it, so nothing else would tell that it is out of date
    if policy.agent_id is None:
        return await _registration(instance, policy, found, source, proof)
    audience = wanted.audience or (instance.settings.default_audience,)

    async def decide(client: Snapshot | None) -> tuple[Entry, IssuedToken]:
        chosen, now = found.chosen, instance.clock()
        if client is None or client.revisions[2] != chosen.credential_revision:  # one of them is out of date
            raise Unavailable("The trust policies are being changed; nothing was done. Please try again.")
        if token.expires_at <= now // 1000:  # its issuer took long to say which its keys are
            raise _untrusted("expired")
        if client.revoked_at is not None:
            raise NoPolicyMatches("The credential of the trust policy is revoked.", audit=[exchange_refused(chosen, organization_id, "revoked")])
        if not client.is_active(now):
            raise UnauthorizedClient(audit=[exchange_refused(chosen, organization_id, "agent or organization is not active")])
        await throttle.admit(request, client)
        basis = found.basis(chosen.allowed_scopes(client.scopes - ({OPERATOR_SCOPE} if chosen.scopes is None else frozenset())), proof)
        lifetime_seconds = instance.settings.tokens.lifetime_seconds
        entry, issued = issue_token(client, now, source, scope=wanted.scope, audience=audience, lifetime_seconds=lifetime_seconds, basis=basis)
        if not issued.scope:
            raise InvalidScopes(
                "The trust policy and the agent have no scope in common.", audit=[exchange_refused(chosen, organization_id, "no scope in common")]
            )
        await found.record_repository()
        return entry, issued

    try:
        entry, answer = await instance.ledger.settle(found.snapshot, decide, lambda issued: token_answer(instance, issued))
    except _LeadsToNoAgent:
        return await _registration(instance, found.chosen, found, source, proof)
    match entry.verdict:
        case Verdict.OVER_LIMIT:
            raise TooManyTokens(instance.clock(), audit=[over_limit(entry.snapshot)])
        case Verdict.REPLAYED if entry.replayed == DPOP_PROOF:
            raise invalid_proof("used before")
        case Verdict.REPLAYED | Verdict.DEAD:
            raise OutsideTokenReplayed(audit=[exchange_refused(found.chosen, organization_id, "token used before", subject=found.subject)])
    note_use(entry, instance.clock())
    instance.metrics.tokens_issued.inc()
    return answer


class _LeadsToNoAgent(Exception):
    """The policy that is chosen now registers an agent; the one that this process knew before did not."""


class _Chosen:
    """The policy by which a token is exchanged. It is chosen anew when the ledger finds that what was decided on is out of date."""

    def __init__(self, instance: Instance, organization_id: str, token: OutsideToken, wanted: Wanted, source: Origin) -> None:
        self._instance, self._organization_id, self._token, self.wanted, self._source = instance, organization_id, token, wanted, source
        self._asked = 0
        self.subject = printable(token.subject, limits.CLAIM_CHARACTERS_MAX)
        self._once = outside_jti(token)
        self._texts = functools.cache(lambda provider: texts_of(provider, token.claims))  # the same for all policies of a provider
        self.chosen: Policy

    async def snapshot(self) -> Snapshot | None:
        self._asked += 1
        chosen = self.chosen if self._asked == 1 else await self.policy(fresh=True)
        if chosen.credential_id is None:
            raise _LeadsToNoAgent
        return await self._instance.ledger.snapshots.find(self._organization_id, chosen.credential_id)

    async def policy(self, *, fresh: bool) -> Policy:
        """Raises NoPolicyMatches, which is only ever said of the policies as they are."""
        policies = await policies_of(self._instance).of(self._organization_id, fresh=fresh)
        try:
            chosen = choose([policy for policy in policies if self._satisfies(policy)], self.wanted.agent_id)
        except NoPolicyMatches as refused:
            if not fresh:
                return await self.policy(fresh=True)
            if not any(policy.issuer == self._token.issuer for policy in policies):
                raise _untrusted("no trust policy of the organization names its issuer") from refused
            refused.audit = (exchange_refused(None, self._organization_id, "no trust policy matches", issuer=self._token.issuer, subject=self.subject),)
            raise
        self.chosen = chosen
        return chosen

    def basis(self, scopes: frozenset[str] | None, proof: Proof | None = None) -> Basis:
        token = self._token
        metadata = {"grant": self.wanted.grant, "issuer": token.issuer, "policyId": self.chosen.policy_id, "subject": self.subject}
        basis = Basis("token.exchanged", scopes, token.expires_at, metadata, (self._once,), policy_id=self.chosen.policy_id)
        return basis if proof is None else replace(basis, once=(proof.once, self._once), key_thumbprint=proof.key_thumbprint)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Of the repository and its owner, by the token; none where the policy has them or wants none."""
        return numbers_to_record(self.chosen, self._texts(self.chosen.provider))

    def _satisfies(self, policy: Policy) -> bool:
        token = self._token
        return policy.issuer == token.issuer and is_satisfied(policy, self._texts(policy.provider), token.audience)

    async def record_repository(self) -> None:
        """Before anything is issued by it, and after all that could refuse it: whoever comes at the same time with another repository of that name is refused."""
        if not self.numbers:
            return
        caller, refusal = Caller(self._organization_id, origin=self._source), functools.partial(exchange_refused, self.chosen, self._organization_id)
        try:
            recorded = await self._instance.database.write(policy_actions.record_repository, caller, self.chosen.policy_id, self.numbers, self._once)
        except PolicyNotFound as error:
            raise NoPolicyMatches from error
        except OutsideTokenReplayed as error:
            raise OutsideTokenReplayed(audit=[refusal("token used before", subject=self.subject)]) from error
        await policies_of(self._instance).of(self._organization_id, fresh=True)
        if not self._satisfies(recorded):
            raise NoPolicyMatches(audit=[refusal("another repository of that name", subject=self.subject)])
        self.chosen = recorded


async def _verified(request: Request, unverified_token: str) -> tuple[str, OutsideToken]:
    """The organization that the token names, and the token, signed by an issuer that it trusts. Raises OutsideTokenInvalid, IssuerUnreachable, RateLimited."""
    instance = instance_of(request)
    try:
        unverified = parse_outside(unverified_token)
        organization_id = organization_of(unverified.audience, instance.settings.issuer) or ""
        if not is_id(organization_id):
            raise InvalidToken(f"aud must be {instance.settings.issuer}/organizations/ and your organization's id")
    except InvalidToken as error:
        raise _untrusted(str(error)) from error
    throttle.present(request, _name_of(organization_id, unverified))
    try:
        trusting = await _trusting(instance, organization_id, unverified)
        await require_signature(unverified, instance.outside_keys, whose=organization_id)
    except InvalidToken as error:  # one answer for all: whom the organization trusts is its own affair
        raise _untrusted(str(error), "nobody whom the organization trusts has signed it; POST /api/v1/oidc/trust-policies/explain says more") from error
    try:
        token = require_claims(unverified, instance.clock())  # after its issuer was asked, which may take long
        if token.token_id is None and any(PROVIDERS[policy.provider].has_token_id for policy in trusting):
            raise InvalidToken("jti is missing")
    except InvalidToken as error:
        raise _untrusted(str(error)) from error
    return organization_id, token


def _name_of(organization_id: str, unverified: UnverifiedOutside) -> str:
    """Whom it says to be, in the length under which failures are counted: one job that fails must not shut its neighbours out."""
    return sha256(msgspec.json.encode([organization_id, unverified.issuer, unverified.token.payload.get("sub")])).hexdigest()


def _untrusted(reason: str, said: str | None = None) -> OutsideTokenInvalid:
    """On the operator's account: that it names an organization, anybody can write into a token. `said`: to the client, in place of the reason."""
    return OutsideTokenInvalid(
        f"The token is not accepted: {said or reason}.", audit=[AuditEntry("auth.failed", "failure", metadata={"reason": f"outside token: {reason}"})]
    )


async def _trusting(instance: Instance, organization_id: str, unverified: UnverifiedOutside) -> list[Policy]:
    """The policies that trust its issuer: nobody else's server is asked for keys. Raises InvalidToken when there are none."""
    known = policies_of(instance)
    found = [policy for policy in known.cached(organization_id) if policy.issuer == unverified.issuer]
    if not found:
        found = [policy for policy in await known.of(organization_id, fresh=True) if policy.issuer == unverified.issuer]
    if not found:
        raise InvalidToken("no trust policy of the organization names its issuer")
    return found


async def _registration(instance: Instance, policy: Policy, found: _Chosen, source: Origin, proof: Proof | None) -> dict[str, Any]:
    """The token that registers one agent: bound to no key, although a proof that comes with the request is used up."""
    wanted, issuer = found.wanted, instance.settings.issuer
    refusal = functools.partial(exchange_refused, policy, policy.organization_id, subject=found.subject)
    if wanted.scope not in {None, REGISTRATION_SCOPE}:
        raise InvalidScopes(
            f"The trust policy names no agent: its tokens register one, with scope {REGISTRATION_SCOPE} and no other.", audit=[refusal("invalid_scope")]
        )
    if wanted.audience not in {(), (issuer,)}:
        raise InvalidTarget("The trust policy names no agent: its tokens are for this server, and for no other.", audit=[refusal("invalid_target")])
    caller = Caller(policy.organization_id, origin=source)
    try:
        if proof is not None and not await instance.database.write(claim_once, caller, proof.once):
            raise invalid_proof("used before")
        issued = await instance.database.write(issue_registration_token, caller, policy, found.basis(None), issuer, found.numbers)
    except PolicyNotFound as error:
        raise NoPolicyMatches(audit=[exchange_refused(None, policy.organization_id, "no trust policy matches", subject=found.subject)]) from error
    return token_answer(instance, issued)
