"""The client credentials grant (RFC 6749 section 4.4): an agent proves itself with its secret and gets an access token."""

import hashlib
from typing import Any

from starlette.requests import Request

from agentidp.auth.guard import write
from agentidp.auth.instance import Instance, instance_of
from agentidp.auth.jws import encode_base64url
from agentidp.auth.jwt import ACCESS_TOKEN_TYPE, ID_TOKEN_TYPE, encode
from agentidp.core.caller import AuditEntry
from agentidp.tokens.actions import issue_token
from agentidp.tokens.clients import Form, presented_client
from agentidp.tokens.rules import InvalidClient, IssuedToken, access_token_claims, id_token_claims, requested_audience, requested_scope

GRANT_TYPE = "client_credentials"


async def handle(request: Request, form: Form) -> dict[str, Any]:
    """The token answer (RFC 6749 section 5.1). Raises InvalidClient, UnauthorizedClient, InvalidScopes, InvalidTarget, Invalid."""
    instance = instance_of(request)
    client = presented_client(request, form)
    if client is None:
        raise InvalidClient(audit=[AuditEntry("auth.failed", "failure", metadata={"reason": "no client authentication"})])
    token = await write(
        request,
        issue_token,
        client.client_id,
        client.presented_secret,
        instance.secret_key,
        scope=requested_scope(form),
        audience=requested_audience(form, instance.settings.default_audience),
        lifetime_seconds=instance.settings.tokens.lifetime_seconds,
    )
    instance.metrics.tokens_issued.inc()
    return _answer(instance, token)


def _answer(instance: Instance, token: IssuedToken) -> dict[str, Any]:
    key, issuer = instance.keys.current, instance.settings.issuer
    claims = access_token_claims(token, issuer)
    access_token = encode(key, ACCESS_TOKEN_TYPE, claims)
    answer = {
        "access_token": access_token,
        "token_type": "Bearer",
        "expires_in": token.expires_at - token.issued_at,
        "scope": claims["scope"],
    }
    if "openid" in token.scopes:
        half = hashlib.sha256(access_token.encode()).digest()[:16]
        answer["id_token"] = encode(key, ID_TOKEN_TYPE, id_token_claims(token, issuer, encode_base64url(half)))
    return answer
