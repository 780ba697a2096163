"""The client credentials grant (RFC 6749 section 4.4): an agent proves itself with its secret and gets an access token."""

import hashlib
from typing import Any

from starlette.requests import Request

from agentidp.auth import throttle
from agentidp.auth.guard import origin
from agentidp.auth.instance import Instance, instance_of
from agentidp.auth.jws import encode_base64url
from agentidp.auth.jwt import ACCESS_TOKEN_TYPE, ID_TOKEN_TYPE, encode
from agentidp.core.caller import AuditEntry
from agentidp.core.secrets import keyed_hash
from agentidp.ledger.entries import Entry, SecretSnapshot, Verdict
from agentidp.tokens.actions import authenticate_client, issue_token, note_use, over_limit
from agentidp.tokens.clients import Form, presented_client
from agentidp.tokens.rules import InvalidClient, IssuedToken, TooManyTokens, access_token_claims, id_token_claims, requested_audience, requested_scope

GRANT_TYPE = "client_credentials"


async def handle(request: Request, form: Form) -> dict[str, Any]:
    """The token answer (RFC 6749 section 5.1). Raises InvalidClient, UnauthorizedClient, InvalidScopes, InvalidTarget, RateLimited, TooManyTokens."""
    instance, source = instance_of(request), origin(request)
    client = presented_client(request, form)
    if client is None:
        raise InvalidClient(audit=[AuditEntry("auth.failed", "failure", metadata={"reason": "no client authentication"})])
    scope, audience = requested_scope(form), requested_audience(form, instance.settings.default_audience)
    throttle.present(request, client.client_id)
    key, presented_hash = client.credential_key, keyed_hash(instance.secret_key, client.presented_secret)

    async def decide(stored: SecretSnapshot | None) -> tuple[Entry, IssuedToken]:
        now = instance.clock()
        agent = authenticate_client(stored, presented_hash, client.client_id, now)
        await throttle.admit(request, agent)
        return issue_token(agent, now, source, scope=scope, audience=audience, lifetime_seconds=instance.settings.tokens.lifetime_seconds)

    entry, answer = await instance.ledger.settle(lambda: instance.ledger.snapshots.find_secret(key), decide, lambda token: token_answer(instance, token))
    if entry.verdict is Verdict.OVER_LIMIT:
        raise TooManyTokens(instance.clock(), audit=[over_limit(entry.snapshot)])
    note_use(entry, instance.clock())
    instance.metrics.tokens_issued.inc()
    return answer


def token_answer(instance: Instance, token: IssuedToken) -> dict[str, Any]:
    """The signed token, and an ID token where `openid` is among its scopes."""
    key, issuer = instance.keys.current, instance.settings.issuer
    claims = access_token_claims(token, issuer)
    access_token = encode(key, ACCESS_TOKEN_TYPE, claims)
    answer = {
        "access_token": access_token,
        "token_type": "Bearer",
        "expires_in": token.expires_at - token.issued_at,
        "scope": claims["scope"],
    }
    if "openid" in token.scope.split() and not token.rests_on:
        half = hashlib.sha256(access_token.encode()).digest()[:16]
        answer["id_token"] = encode(key, ID_TOKEN_TYPE, id_token_claims(token, issuer, encode_base64url(half)))
    return answer
