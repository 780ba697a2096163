"""Generating, rotating and revoking credentials. A secret leaves here once; the database keeps its keyed hash. Of a key it has the public half only."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from agentidp.agents.queries import is_administrator, lock_agent
from agentidp.agents.rules import AgentNotActive, is_active
from agentidp.auth.jwk import ForeignKey
from agentidp.core import limits
from agentidp.core.errors import InvalidFields
from agentidp.core.ids import new_id
from agentidp.core.secrets import keyed_hash
from agentidp.credentials.queries import count_active_credentials, has_key, lock_credential, publishes_keys, to_credential
from agentidp.credentials.rules import (
    ClientSecret,
    Credential,
    CredentialAlreadyRevoked,
    KeyAlreadyRegistered,
    KeyNotRotated,
    KeysPublishedElsewhere,
    TooManyCredentials,
    new_client_secret,
    require_administrator,
    require_may_manage,
)
from agentidp.db.schema import credential_keys, credential_secrets, credentials
from agentidp.db.unit import Tx

_KEEP: Any = object()
_HINT_CHARACTERS_MAX = 64  # as the column is wide


@dataclass(frozen=True, slots=True)
class NewCredential:
    """A credential with its secret, to be shown once."""

    credential: Credential
    secret: ClientSecret


def generate_credential(tx: Tx, agent_id: str, secret_key: bytes, expires_at: int | None = None) -> NewCredential:
    """A new secret. Raises AgentNotFound, AgentNotActive, Forbidden, TooManyCredentials, InvalidFields (expiry in the past)."""
    agent, secret = _lock_for_another(tx, agent_id, expires_at), new_client_secret()
    credential_id = _insert(tx, agent_id, "secret", secret.hint, expires_at)
    _store_secret(tx, credential_id, secret, secret_key)
    return NewCredential(to_credential(lock_credential(tx, agent_id, credential_id), agent.status, tx.now), secret)


def register_key(tx: Tx, agent_id: str, key: ForeignKey, expires_at: int | None = None) -> Credential:
    """A public key, which shows as its thumbprint. Raises what `generate_credential` does, and KeyAlreadyRegistered."""
    agent = _lock_for_another(tx, agent_id, expires_at)
    if has_key(tx, agent_id, key.thumbprint):
        raise KeyAlreadyRegistered
    return _insert_key(tx, agent, key.thumbprint, expires_at, public_jwk=key.members)


def register_key_set(tx: Tx, agent_id: str, jwks_uri: str, expires_at: int | None = None) -> Credential:
    """Where the agent publishes its keys, which shows as the host. Raises what `generate_credential` does, and KeysPublishedElsewhere.

    There is one such place an agent: what an assertion makes us fetch is bounded.
    """
    agent = _lock_for_another(tx, agent_id, expires_at)
    if publishes_keys(tx, agent_id):
        raise KeysPublishedElsewhere
    return _insert_key(tx, agent, (urlsplit(jwks_uri).hostname or "")[:_HINT_CHARACTERS_MAX], expires_at, jwks_uri=jwks_uri)


def rotate_credential(
    tx: Tx, agent_id: str, credential_id: str, secret_key: bytes, *, overlap_seconds: int = 0, expires_at: int | None = _KEEP
) -> NewCredential:
    """A new secret; the old ones live for `overlap_seconds` more. Raises what `generate_credential` does, CredentialNotFound, CredentialAlreadyRevoked, KeyNotRotated."""
    agent = _lock_manageable(tx, agent_id)
    row = lock_credential(tx, agent_id, credential_id)
    if row.kind != "secret":
        raise KeyNotRotated
    if row.revoked_at is not None or agent.status == "decommissioned":
        raise CredentialAlreadyRevoked
    if not is_active(agent.status, agent.expires_at, tx.now):
        raise AgentNotActive
    columns: dict[str, Any] = {} if expires_at is _KEEP else {"expires_at": expires_at}
    _require_future(tx, columns.get("expires_at"))
    if row.expires_at is not None and row.expires_at <= tx.now:  # it comes back to life
        if "expires_at" not in columns:
            raise InvalidFields([("expiresAt", "the credential has expired; give it a new expiry, or null for none")])
        _require_room(tx, agent_id)
    secret = new_client_secret()
    end = tx.now + overlap_seconds * 1000 if overlap_seconds else 0  # without overlap no clock decides, however far behind another process's is
    old = sa.and_(credential_secrets.c.organization_id == tx.caller.organization_id, credential_secrets.c.credential_id == credential_id)
    tx.run(sa.delete(credential_secrets).where(old, credential_secrets.c.valid_until <= tx.now))
    tx.run(
        sa.update(credential_secrets)
        .where(old, sa.or_(credential_secrets.c.valid_until.is_(None), credential_secrets.c.valid_until > end))
        .values(valid_until=end)
    )
    _store_secret(tx, credential_id, secret, secret_key)
    _store(tx, credential_id, hint=secret.hint, **columns)
    tx.record("credential.rotated", "credential", credential_id, agentId=agent_id, hint=secret.hint, overlapSeconds=overlap_seconds)
    return NewCredential(to_credential(lock_credential(tx, agent_id, credential_id), agent.status, tx.now), secret)


def revoke_credential(tx: Tx, agent_id: str, credential_id: str) -> None:
    """The credential and the tokens issued with it are dead. Raises AgentNotFound, CredentialNotFound, CredentialAlreadyRevoked, Forbidden."""
    agent = _lock_manageable(tx, agent_id)
    row = lock_credential(tx, agent_id, credential_id)
    if row.revoked_at is not None or agent.status == "decommissioned":
        raise CredentialAlreadyRevoked
    _store(tx, credential_id, revoked_at=tx.now)
    tx.record("credential.revoked", "credential", credential_id, agentId=agent_id)


def generate_policy_credential(tx: Tx, agent_id: str, policy_id: str, scopes: frozenset[str] | None) -> str:
    """What stands for a trust policy that lets others act as the agent, with those scopes or all of its own. Returns the credential's id.

    Whoever may make it may do itself what it gives away. Raises AgentNotFound, AgentNotActive, Forbidden, TooManyCredentials.
    """
    agent = _lock_manageable(tx, agent_id, "policies:write", scopes)
    if not is_active(agent.status, agent.expires_at, tx.now):
        raise AgentNotActive
    _require_room(tx, agent_id)
    return _insert(tx, agent_id, "policy", policy_id, None)


def revoke_policy_credential(tx: Tx, credential_id: str) -> None:
    """The policy is gone, and what was issued by it is dead."""
    _store(tx, credential_id, revoked_at=sa.func.coalesce(credentials.c.revoked_at, tx.now))


def renew_policy_credentials(tx: Tx) -> None:
    """The organization's policies have changed: whatever was decided on the old ones is to be decided again."""
    mine = sa.and_(credentials.c.organization_id == tx.caller.organization_id, credentials.c.kind == "policy", credentials.c.revoked_at.is_(None))
    tx.run(sa.update(credentials).where(mine).values(revision=credentials.c.revision + 1))


def _lock_for_another(tx: Tx, agent_id: str, expires_at: int | None) -> sa.Row[Any]:
    """The agent, which may have one more credential with that expiry."""
    agent = _lock_manageable(tx, agent_id)
    if not is_active(agent.status, agent.expires_at, tx.now):
        raise AgentNotActive
    _require_future(tx, expires_at)
    _require_room(tx, agent_id)
    return agent


def _insert(tx: Tx, agent_id: str, kind: str, hint: str, expires_at: int | None) -> str:
    """Returns the new credential's id."""
    credential_id = new_id(tx.now)
    values = {"credential_id": credential_id, "agent_id": agent_id, "kind": kind, "hint": hint, "expires_at": expires_at}
    tx.run(sa.insert(credentials).values(organization_id=tx.caller.organization_id, **values, revision=1, created_at=tx.now))
    tx.count("credentialsGenerated")
    tx.record("credential.generated", "credential", credential_id, agentId=agent_id, hint=hint, kind=kind)
    return credential_id


def _insert_key(tx: Tx, agent: sa.Row[Any], hint: str, expires_at: int | None, **columns: object) -> Credential:
    credential_id = _insert(tx, agent.agent_id, "public_key", hint, expires_at)
    owner = {"agent_id": agent.agent_id, "credential_id": credential_id, "organization_id": tx.caller.organization_id}
    tx.run(sa.insert(credential_keys).values(**owner, **columns, created_at=tx.now))
    return to_credential(lock_credential(tx, agent.agent_id, credential_id), agent.status, tx.now)


def _lock_manageable(tx: Tx, agent_id: str, scope: str = "agents:write", scopes: frozenset[str] | None = None) -> sa.Row[Any]:
    agent = lock_agent(tx, agent_id)
    if (tx.caller.agent_id != agent_id or tx.caller.is_delegated) and is_administrator(tx, agent_id):
        require_administrator(tx.caller, agent_id, is_one=is_administrator(tx, tx.caller.agent_id))
    require_may_manage(tx.caller, agent_id, frozenset(agent.scopes.split()) if scopes is None else scopes, scope)
    return agent


def _store_secret(tx: Tx, credential_id: str, secret: ClientSecret, secret_key: bytes) -> None:
    tx.run(
        sa.insert(credential_secrets).values(
            credential_key=secret.credential_key,
            organization_id=tx.caller.organization_id,
            credential_id=credential_id,
            secret_hash=keyed_hash(secret_key, secret.text),
            created_at=tx.now,
        )
    )


def _store(tx: Tx, credential_id: str, **columns: object) -> None:
    tx.run(
        sa.update(credentials)
        .where(credentials.c.organization_id == tx.caller.organization_id, credentials.c.credential_id == credential_id)
        .values(**columns, revision=credentials.c.revision + 1)
    )


def _require_room(tx: Tx, agent_id: str) -> None:
    if count_active_credentials(tx, agent_id) >= limits.ACTIVE_CREDENTIALS_PER_AGENT_MAX:
        raise TooManyCredentials


def _require_future(tx: Tx, expires_at: int | None) -> None:
    if expires_at is not None and expires_at <= tx.now:
        raise InvalidFields([("expiresAt", "must be in the future")])
