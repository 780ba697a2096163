"""Issuing, introspecting and revoking, each with its audit event in the same transaction."""

import sqlalchemy as sa

from agentidp.agents import actions as agent_actions
from agentidp.auth.authority import is_alive
from agentidp.auth.jwt import VerifiedClaims
from agentidp.auth.scopes import granted_scopes, to_text
from agentidp.core import limits
from agentidp.core.caller import OPERATOR_SCOPE, AuditEntry, Caller, Origin
from agentidp.core.clock import to_rfc3339
from agentidp.core.errors import InvalidScopes
from agentidp.core.ids import new_id
from agentidp.credentials.actions import stamp_last_used
from agentidp.credentials.queries import Authenticated, AuthenticationFailure, authenticate_client
from agentidp.db.schema import revoked_tokens
from agentidp.db.unit import Tx
from agentidp.tokens.rules import InvalidClient, IssuedToken, NotYourToken, UnauthorizedClient, expiry


def authenticate(tx: Tx, client_id: str, presented_secret: str, secret_key: bytes) -> Authenticated:
    """The active agent behind the secret. Raises InvalidClient or UnauthorizedClient, each with its audit event."""
    client = authenticate_client(tx, client_id, presented_secret, secret_key)
    if isinstance(client, AuthenticationFailure):
        entry = AuditEntry("auth.failed", "failure", organization_id=client.organization_id, agent_id=client.agent_id, metadata={"reason": client.reason})
        raise InvalidClient(audit=[entry])
    if not client.is_active:
        raise UnauthorizedClient(audit=[_refused(client, "agent or organization is not active")])
    return client


def authenticate_caller(tx: Tx, client_id: str, presented_secret: str, secret_key: bytes, origin: Origin) -> Caller:
    """The same as a caller, holding what a token without `scope` would hold."""
    client = authenticate(tx, client_id, presented_secret, secret_key)
    return Caller(client.organization_id, client.agent_id, client.scopes - {OPERATOR_SCOPE}, client.credential_id, origin=origin)


def issue_token(
    tx: Tx,
    client_id: str,
    presented_secret: str,
    secret_key: bytes,
    *,
    scope: str | None,
    audience: tuple[str, ...],
    lifetime_seconds: int,
) -> IssuedToken:
    """Decide on and record an access token. Raises InvalidClient, UnauthorizedClient, InvalidScopes, each recorded.

    Locks nothing: a stream of token requests would keep a revocation waiting. A token decided on while the agent is being stopped
    carries the old epoch or the revoked credential, and is dead.
    """
    client = authenticate(tx, client_id, presented_secret, secret_key)
    try:
        scopes = granted_scopes(scope, client.scopes)
    except InvalidScopes as error:
        error.audit = (_refused(client, "invalid_scope", scope=scope),)
        raise
    issued_at = tx.now // 1000
    token = IssuedToken(
        client.organization_id,
        client.agent_id,
        client.credential_id,
        new_id(tx.now),
        client.token_epoch,
        scopes,
        audience,
        issued_at,
        expiry(issued_at, lifetime_seconds, client.expires_at),
    )
    stamp_last_used(tx, client.organization_id, client.credential_id, client.last_used_at)
    tx.record(
        "token.issued",
        "token",
        token.token_id,
        organization_id=token.organization_id,
        agent_id=token.agent_id,
        scope=to_text(scopes),
        audience=list(audience),
        credentialId=token.credential_id,
        expiresAt=to_rfc3339(token.expires_at * 1000),
    )
    return token


def introspect_token(tx: Tx, token: VerifiedClaims | None) -> bool:
    """Whether the token is active and the caller's organization's to know about (RFC 7662 section 2.2)."""
    own = token is not None and token.organization_id == tx.caller.organization_id
    active = token is not None and own and is_alive(tx, token)
    tx.record("token.introspected", "token", token.token_id if token and own else None, active=active)
    return active


def revoke_token(tx: Tx, token: VerifiedClaims) -> None:
    """One's own token, or any of the organization's with tokens:write; another tenant's is left alone without a word (RFC 7009).

    Raises NotYourToken.
    """
    if token.organization_id != tx.caller.organization_id:
        return
    if token.agent_id != tx.caller.agent_id and "tokens:write" not in tx.caller.scopes:
        entry = AuditEntry("access.denied", "failure", "token", token.token_id, metadata={"requiredScope": "tokens:write"})
        raise NotYourToken(scope="tokens:write", audit=[entry])
    is_new = tx.insert_new(
        revoked_tokens,
        organization_id=token.organization_id,
        token_id=token.token_id,
        agent_id=token.agent_id,
        revoked_at=tx.now,
        expires_at=token.expires_at * 1000,
    )
    if is_new:
        tx.record("token.revoked", "token", token.token_id, agentId=token.agent_id)


def revoke_all_tokens(tx: Tx, agent_id: str) -> None:
    """Everything issued to the agent before now is dead. Raises AgentNotFound."""
    agent_actions.revoke_agent_tokens(tx, agent_id)


def sweep_revoked_tokens(tx: Tx) -> int:
    """Forget revocations of tokens that have expired by themselves. Returns how many."""
    expired = sa.select(revoked_tokens.c.token_id).where(revoked_tokens.c.expires_at <= tx.now).limit(limits.SWEEP_ROWS_MAX)
    result = tx.run(sa.delete(revoked_tokens).where(revoked_tokens.c.token_id.in_(expired), revoked_tokens.c.expires_at <= tx.now))
    return result.rowcount


def _refused(client: Authenticated, reason: str, **metadata: object) -> AuditEntry:
    return AuditEntry("access.denied", "failure", "credential", client.credential_id, client.organization_id, client.agent_id, {"reason": reason, **metadata})
