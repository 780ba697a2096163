"""Token exchange (RFC 8693): a token of another issuer for one of ours, or one of ours for one that can do less, also for another agent that acts for its own.

Scope, audience and life only shrink. What is made from tokens of ours dies with them: it `rests_on` the subject's and on the actor's. No client authenticates: who holds
the tokens could use them as they are.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from starlette.requests import Request

from agentidp.auth import throttle
from agentidp.auth.authority import is_alive, is_in_force
from agentidp.auth.dpop import invalid_proof, read_proof
from agentidp.auth.guard import origin
from agentidp.auth.instance import instance_of
from agentidp.auth.jws import InvalidToken
from agentidp.auth.jwt import VerifiedClaims, verify_access_token
from agentidp.core import limits
from agentidp.core.caller import AuditEntry
from agentidp.core.errors import Invalid, InvalidScopes
from agentidp.ledger.entries import Entry, Snapshot, Verdict
from agentidp.policies.rules import PresentedTokenRefused
from agentidp.tokens.actions import Basis, issue_token, note_use, over_limit
from agentidp.tokens.clients import Form, require_no_client
from agentidp.tokens.grants import jwt_bearer
from agentidp.tokens.grants.client_credentials import token_answer
from agentidp.tokens.rules import InvalidTarget, IssuedToken, TooManyTokens, optional_audience, requested_scope

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name
_JWT: Final = "urn:ietf:params:oauth:token-type:jwt"
_OUTSIDE: Final = frozenset({_JWT, "urn:ietf:params:oauth:token-type:id_token"})


async def handle(request: Request, form: Form) -> dict[str, Any]:
    """The answer of RFC 8693 section 2.2.1. Raises PresentedTokenRefused, Invalid, InvalidScopes, InvalidTarget, InvalidProof, NonceNeeded.

    Also RateLimited, TooManyTokens, Unavailable.
    """
    require_no_client(request, form)
    for name in ("subject_token", "subject_token_type"):
        if name not in form:
            raise Invalid(f"The parameter {name} is missing.")
    if ("actor_token" in form) != ("actor_token_type" in form):
        raise Invalid("actor_token and actor_token_type go together.")
    if form.get("requested_token_type", [ACCESS_TOKEN]) != [ACCESS_TOKEN]:
        raise Invalid(f"requested_token_type can only be {ACCESS_TOKEN}.")
    kind, wanted = form["subject_token_type"][0], dict(form)
    wanted["resource"] = [*form.get("resource", ()), *form.get("audience", ())]  # two words for whom the token is for
    if kind == ACCESS_TOKEN:
        answer = await _own(request, wanted)
    elif kind in _OUTSIDE:
        if "actor_token" in form:
            raise Invalid("actor_token goes with an access token of this server as subject_token.")
        answer = await jwt_bearer.handle(request, wanted | {"assertion": form["subject_token"]}, GRANT_TYPE, PresentedTokenRefused)
    else:
        raise Invalid(f"subject_token_type must be {ACCESS_TOKEN}, or for a token of another issuer {_JWT}.")
    return {"issued_token_type": ACCESS_TOKEN} | answer


async def _own(request: Request, form: Form) -> dict[str, Any]:
    instance, source, proof = instance_of(request), origin(request), read_proof(request)
    subject, actor = await _verified(request, form, "subject_token"), await _verified(request, form, "actor_token") if "actor_token" in form else None
    for name, token in (("subject_token", subject), ("actor_token", actor)):
        if token is not None and token.key_thumbprint is not None and (proof is None or proof.key_thumbprint != token.key_thumbprint):
            raise _refused(f"{name} is bound to a key: whoever has that exchanges it, with a proof", token)
    basis, scope = _shrunk(subject, actor), requested_scope(form)
    if proof is not None:
        basis = replace(basis, once=(proof.once,), key_thumbprint=proof.key_thumbprint)
    if len(basis.rests_on) > limits.FOUNDATIONS_MAX:
        raise _refused("subject_token was exchanged too often", subject)
    audience = optional_audience(form) or subject.audience
    if not set(audience) <= set(subject.audience):
        raise InvalidTarget("A token can only be exchanged for one whose audience is among its own.")

    async def decide(client: Snapshot | None) -> tuple[Entry, IssuedToken]:
        now = instance.clock()
        if client is None or not is_in_force(client, subject, now) or (basis.expires_at or 0) <= now // 1000:
            raise _refused("subject_token is no longer good", subject)
        await throttle.admit(request, client)
        lifetime_seconds = instance.settings.tokens.lifetime_seconds
        entry, issued = issue_token(client, now, source, scope=scope, audience=audience, lifetime_seconds=lifetime_seconds, basis=basis)
        if not issued.scope:
            raise InvalidScopes("The tokens have no scope in common.")
        entry.token_id, entry.token_issued_at, entry.key_id = subject.token_id, subject.issued_at * 1000, subject.key_id
        return entry, issued

    snapshots = instance.ledger.snapshots
    entry, answer = await instance.ledger.settle(
        lambda: snapshots.find(subject.organization_id, subject.credential_id), decide, lambda issued: token_answer(instance, issued)
    )
    match entry.verdict:
        case Verdict.OVER_LIMIT:
            raise TooManyTokens(instance.clock(), audit=[over_limit(entry.snapshot)])
        case Verdict.REPLAYED:
            raise invalid_proof("used before")
        case Verdict.DEAD:
            raise _refused("subject_token is no longer good", subject)
    note_use(entry, instance.clock())
    instance.metrics.tokens_issued.inc()
    return answer


async def _verified(request: Request, form: Form, name: str) -> VerifiedClaims:
    """An access token of ours for our own API, in force. Raises PresentedTokenRefused, RateLimited, Unavailable."""
    instance = instance_of(request)
    if form[f"{name}_type"] != [ACCESS_TOKEN]:
        raise Invalid(f"{name}_type must be {ACCESS_TOKEN}.")
    try:
        token = await verify_access_token(form[name][0], instance.keys, issuer=instance.settings.issuer, now=instance.clock())
    except InvalidToken as error:
        raise _refused(f"{name} is not a good access token of this server", None) from error
    throttle.present(request, token.token_id, is_signed=True)
    if instance.settings.issuer not in token.audience:
        raise _refused(f"{name} is meant for another audience", token)
    if token.is_registration or not await is_alive(instance, token):
        raise _refused(f"{name} is no longer good, or good for something else", token)
    return token


def _shrunk(subject: VerifiedClaims, actor: VerifiedClaims | None) -> Basis:
    """What the subject, and whoever acts for it, may both do, for as long as both may. Raises PresentedTokenRefused."""
    metadata: Mapping[str, object] = {"grant": GRANT_TYPE, "subjectTokenId": subject.token_id}
    if actor is None:
        outermost = subject.claims.get("act")
        return Basis(
            "token.exchanged",
            subject.scopes,
            subject.expires_at,
            metadata,
            actor=outermost,
            rests_on=_rests_on(subject),
            policy_id=subject.claims.get("policy_id"),
        )
    if actor.organization_id != subject.organization_id:
        raise _refused("actor_token is of another organization", actor)
    if actor.agent_id == subject.agent_id or actor.rests_on:
        raise _refused("actor_token must be another agent's own", actor)
    if subject.actors >= limits.ACTORS_MAX:
        raise _refused(f"subject_token has {limits.ACTORS_MAX} actors one behind the other, which is the most", subject)
    act = {"sub": actor.agent_id} | ({"act": subject.claims["act"]} if subject.actors else {})
    scopes = subject.scopes & actor.scopes
    expires_at = min(subject.expires_at, actor.expires_at)
    return Basis(
        "token.exchanged",
        scopes,
        expires_at,
        {"actorId": actor.agent_id, **metadata},
        actor=act,
        rests_on=_rests_on(subject, actor),
        policy_id=subject.claims.get("policy_id"),
    )


def _refused(reason: str, token: VerifiedClaims | None) -> PresentedTokenRefused:
    known = {"organization_id": token.organization_id, "agent_id": token.agent_id} if token is not None and not token.is_registration else {}
    return PresentedTokenRefused(f"{reason}.", audit=[AuditEntry("auth.failed", "failure", metadata={"reason": reason}, **known)])


def _rests_on(subject: VerifiedClaims, *others: VerifiedClaims) -> tuple[Mapping[str, Any], ...]:
    return tuple(token.as_claim() for token in (*subject.rests_on, subject.foundation, *(other.foundation for other in others)))
