"""Issuing, introspecting and revoking, each with its audit event in the same transaction.

What is decided on a snapshot returns an entry for the ledger; what changes rows is a unit of work.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import sqlalchemy as sa

from agentidp.agents import actions as agent_actions
from agentidp.auth.jwt import VerifiedClaims
from agentidp.auth.scopes import REGISTRATION_SCOPE, granted_scopes, to_text
from agentidp.core import limits
from agentidp.core.caller import OPERATOR_SCOPE, AuditEntry, Caller, Origin
from agentidp.core.clock import to_rfc3339
from agentidp.core.errors import InvalidScopes
from agentidp.core.ids import new_id
from agentidp.credentials.rules import refusal_reason
from agentidp.db.schema import revoked_tokens
from agentidp.db.unit import Tx
from agentidp.ledger.entries import Entry, Event, OneTime, SecretSnapshot, Snapshot
from agentidp.ledger.one_time import claim_once
from agentidp.policies.actions import record_repository
from agentidp.policies.queries import find_status, get_policy
from agentidp.policies.rules import NoPolicyMatches, OutsideTokenInvalid, OutsideTokenReplayed, Policy
from agentidp.tokens.rules import InvalidClient, IssuedToken, NotYourToken, UnauthorizedClient, expiry


@dataclass(frozen=True, slots=True)
class Basis:
    """What a token is issued on, and what that bounds. `scopes` None: the agent's own. `expires_at` in seconds. `once` is used up with it.

    `key_thumbprint` is of the key that it is bound to.
    """

    action: str = "token.issued"
    scopes: frozenset[str] | None = None
    expires_at: int | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    once: tuple[OneTime, ...] = ()
    key_thumbprint: str | None = None
    actor: Mapping[str, Any] | None = None
    rests_on: tuple[Mapping[str, Any], ...] = ()
    policy_id: str | None = None


OWN_PROOF = Basis()


def authenticate_client(stored: SecretSnapshot | None, presented_hash: bytes, client_id: str, now: int) -> Snapshot:
    """The active agent behind the secret, as far as the snapshot goes. Raises InvalidClient or UnauthorizedClient, with its audit event."""
    reason = refusal_reason(stored, presented_hash, client_id, now)
    if stored is None:
        raise InvalidClient(audit=[AuditEntry("auth.failed", "failure", metadata={"reason": reason})])
    if reason is not None:
        agent = {"organization_id": stored.credential.organization_id, "agent_id": stored.credential.agent_id}
        raise InvalidClient(audit=[AuditEntry("auth.failed", "failure", metadata={"reason": reason}, **agent)])
    return require_active(stored.credential, now)


def require_active(client: Snapshot, now: int) -> Snapshot:
    """The client, which has proven itself. Raises UnauthorizedClient unless agent and organization are active."""
    if not client.is_active(now):
        raise UnauthorizedClient(audit=[_refused(client, "agent or organization is not active")])
    return client


def caller_entry(client: Snapshot, now: int, origin: Origin) -> tuple[Entry, Caller]:
    """The client as a caller, holding what a token without `scope` would hold; the entry counts the call and confirms the snapshot."""
    caller = Caller(client.organization_id, client.agent_id, client.scopes - {OPERATOR_SCOPE}, client.credential_id, origin=origin)
    return Entry(client, meter="apiCalls", used=_is_use_due(client, now)), caller


def issue_token(
    client: Snapshot,
    now: int,
    origin: Origin,
    *,
    scope: str | None,
    audience: tuple[str, ...],
    lifetime_seconds: int,
    basis: Basis = OWN_PROOF,
) -> tuple[Entry, IssuedToken]:
    """Decide on an access token, bound to a key if its basis names one; it is issued once the entry is recorded. Raises InvalidScopes, with its audit event.

    Locks nothing: a stream of token requests would keep a revocation waiting. A token whose entry commits while the agent is being
    stopped carries the old epoch or the revoked credential, and is dead.
    """
    try:
        scopes = granted_scopes(scope, client.scopes if basis.scopes is None else basis.scopes)
    except InvalidScopes as error:
        error.audit = (_refused(client, "invalid_scope", scope=scope),)
        raise
    issued_at, token_id = now // 1000, new_id(now)
    expires_at = expiry(issued_at, lifetime_seconds, client.ends_at)
    if basis.expires_at is not None:
        expires_at = min(expires_at, basis.expires_at)
    token = IssuedToken(
        client.organization_id,
        client.agent_id,
        client.credential_id,
        token_id,
        client.token_epoch,
        to_text(scopes),
        audience,
        issued_at,
        expires_at,
        basis.key_thumbprint,
        basis.actor,
        basis.rests_on,
        basis.policy_id,
    )
    # in the order of names, which is the canonical form: the chain is verified without sorting them again
    metadata: dict[str, object] = {"audience": audience, "credentialId": client.credential_id, "expiresAt": to_rfc3339(expires_at * 1000), "scope": token.scope}
    if basis.metadata:
        metadata = dict(sorted((metadata | dict(basis.metadata)).items()))
    event = Event(new_id(now), client.agent_id, basis.action, "token", token_id, msgspec.json.encode(metadata).decode(), origin)
    return Entry(client, "tokensIssued", event, used=_is_use_due(client, now), essential=OPERATOR_SCOPE in scopes, once=basis.once), token


def issue_registration_token(tx: Tx, policy: Policy, basis: Basis, audience: str, numbers: tuple[str, ...]) -> IssuedToken:
    """A token of the policy that registers one agent: see `auth.registration`. `numbers` of the repository, if they are to be recorded.

    Raises OutsideTokenInvalid, OutsideTokenReplayed, PolicyNotFound, NoPolicyMatches, UnauthorizedClient.
    """
    refusal = functools.partial(exchange_refused, policy, policy.organization_id)
    if not all(claim_once(tx, value) for value in basis.once):
        raise OutsideTokenReplayed(audit=[refusal("token used before")])
    get_policy(tx, policy.policy_id)
    if find_status(tx) != "active":
        raise UnauthorizedClient(audit=[refusal("organization is not active")])
    if numbers:
        recorded = record_repository(tx, policy.policy_id, numbers)
        if (recorded.repository_id, recorded.repository_owner_id) != numbers:
            raise NoPolicyMatches(audit=[refusal("another repository of that name")])
    issued_at, token_id, mine = tx.now // 1000, new_id(tx.now), policy.policy_id
    expires_at = min(issued_at + limits.REGISTRATION_TOKEN_SECONDS_MAX, basis.expires_at or 0)
    if expires_at <= issued_at:
        raise OutsideTokenInvalid("The token is not accepted: expired.", audit=[refusal("expired")])
    metadata = {"expiresAt": to_rfc3339(expires_at * 1000), "scope": REGISTRATION_SCOPE, **basis.metadata}
    tx.entries.append(AuditEntry(basis.action, "success", "token", token_id, metadata=metadata))
    return IssuedToken(policy.organization_id, mine, mine, token_id, 0, REGISTRATION_SCOPE, (audience,), issued_at, expires_at)


def note_use(entry: Entry, now: int) -> None:
    """Call it when the entry is recorded, so that the credential's next uses within the minute need not be."""
    if entry.used:
        entry.snapshot.last_used_at = now


def exchange_refused(policy: Policy | None, organization_id: str, reason: str, **metadata: object) -> AuditEntry:
    """What a token of another issuer leaves that was really signed by it, and not exchanged."""
    return AuditEntry(
        "auth.failed", "failure", "policy" if policy else None, policy.policy_id if policy else None, organization_id, metadata={"reason": reason, **metadata}
    )


def over_limit(client: Snapshot) -> AuditEntry:
    """What a token request leaves when the day's quota is used up."""
    return _refused(client, "the organization's tokens of today are used up")


def introspection_event(token: VerifiedClaims, caller: Caller, now: int) -> Event:
    """What an introspection of a live token leaves."""
    return Event(new_id(now), caller.agent_id, "token.introspected", "token", token.token_id, '{"active":true}', caller.origin)


def record_inactive(tx: Tx, token_id: str | None) -> None:
    """What an introspection leaves of a token that is not active, or not the organization's to know about."""
    tx.record("token.introspected", "token", token_id, active=False)


def revoke_token(tx: Tx, token: VerifiedClaims) -> None:
    """One's own token (whoever was given one that does less has only that), or any of the organization's with tokens:write; another tenant's is left alone without a word (RFC 7009).

    Raises NotYourToken.
    """
    if token.organization_id != tx.caller.organization_id:
        return
    own = token.agent_id == tx.caller.agent_id and (not tx.caller.is_delegated or token.token_id == tx.caller.token_id)
    if not own and "tokens:write" not in tx.caller.scopes:
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
    """Forget revocations of tokens that have expired by themselves, also by a clock that is behind. Returns how many."""
    is_over = revoked_tokens.c.expires_at <= tx.now - limits.ISSUED_AT_LEEWAY_SECONDS * 1000
    over = sa.select(revoked_tokens.c.token_id).where(is_over).limit(limits.SWEEP_ROWS_MAX)
    result = tx.run(sa.delete(revoked_tokens).where(revoked_tokens.c.token_id.in_(over), is_over))
    return result.rowcount


def _is_use_due(client: Snapshot, now: int) -> bool:
    return client.last_used_at is None or now - client.last_used_at >= limits.LAST_USED_RESOLUTION_MS


def _refused(client: Snapshot, reason: str, **metadata: object) -> AuditEntry:
    return AuditEntry("access.denied", "failure", "credential", client.credential_id, client.organization_id, client.agent_id, {"reason": reason, **metadata})
