"""The client credentials grant (RFC 6749 section 4.4): an agent proves itself with its secret or key and gets an access token."""

import hashlib
from typing import Any

from starlette.requests import Request

from agentidp.auth.dpop import read_proof
from agentidp.auth.guard import origin
from agentidp.auth.instance import Instance, instance_of
from agentidp.auth.jws import encode_base64url
from agentidp.auth.jwt import ACCESS_TOKEN_TYPE, ID_TOKEN_TYPE, encode
from agentidp.core.caller import AuditEntry
from agentidp.ledger.entries import Entry, Snapshot, Verdict
from agentidp.tokens.actions import OWN_PROOF, Basis, issue_token, over_limit
from agentidp.tokens.clients import Form, presented_client, settle
from agentidp.tokens.rules import InvalidClient, IssuedToken, TooManyTokens, access_token_claims, id_token_claims, requested_audience, requested_scope

GRANT_TYPE = "client_credentials"


async def handle(request: Request, form: Form) -> dict[str, Any]:
    """The token answer (RFC 6749 section 5.1). Raises InvalidScopes, InvalidTarget, TooManyTokens, NonceNeeded, and what `settle` raises."""
    instance, source = instance_of(request), origin(request)
    proof = read_proof(request)
    client = presented_client(request, form)
    if client is None:
        reason = "no client authentication"
        raise InvalidClient(reason, audit=[AuditEntry("auth.failed", "failure", metadata={"reason": reason})])
    scope, audience = requested_scope(form), requested_audience(form, instance.settings.default_audience)
    basis, lifetime_seconds = OWN_PROOF if proof is None else Basis(key_thumbprint=proof.key_thumbprint), instance.settings.tokens.lifetime_seconds

    def decide(agent: Snapshot, now: int) -> tuple[Entry, IssuedToken]:
        return issue_token(agent, now, source, scope=scope, audience=audience, lifetime_seconds=lifetime_seconds, basis=basis)

    entry, answer = await settle(request, client, decide, lambda token: token_answer(instance, token), proof)
    if entry.verdict is Verdict.OVER_LIMIT:
        raise TooManyTokens(instance.clock(), audit=[over_limit(entry.snapshot)])
    instance.metrics.tokens_issued.inc()
    return answer


def token_answer(instance: Instance, token: IssuedToken) -> dict[str, Any]:
    """The signed token, and an ID token where `openid` is among its scopes."""
    key, issuer = instance.keys.current, instance.settings.issuer
    claims = access_token_claims(token, issuer)
    access_token = encode(key, ACCESS_TOKEN_TYPE, claims)
    answer = {
        "access_token": access_token,
        "token_type": token.token_type,
        "expires_in": token.expires_at - token.issued_at,
        "scope": claims["scope"],
    }
    if "openid" in token.scope.split() and not token.rests_on and token.policy_id is None:  # whoever acts for the agent is not the agent
        half = hashlib.sha256(access_token.encode()).digest()[:16]
        answer["id_token"] = encode(key, ID_TOKEN_TYPE, id_token_claims(token, issuer, encode_base64url(half)))
    return answer
