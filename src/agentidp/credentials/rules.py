"""The form of a client secret, the states of a credential, and who may manage whose. Pure, but for `new_client_secret`.

`aidp_sk_<16 characters: credential key>_<43 characters: 256 random bits>_<6 characters: CRC-32>`, base62. The key finds the row, so
that exactly one comparison is made; the checksum lets scanners and the server drop typos without a look-up.
"""

import hmac
import re
import zlib
from dataclasses import dataclass
from secrets import randbits

from agentidp.core.caller import OPERATOR_SCOPE, AuditEntry, Caller
from agentidp.core.errors import Conflict, Forbidden, NotFound
from agentidp.core.secrets import base62, random_base62
from agentidp.ledger.entries import SecretSnapshot

_KEY_CHARACTERS, _SECRET_CHARACTERS, _CHECKSUM_CHARACTERS = 16, 43, 6
_SECRET = re.compile(r"(aidp_sk_([0-9A-Za-z]{16})_[0-9A-Za-z]{43})_([0-9A-Za-z]{6})", re.ASCII)


class CredentialNotFound(NotFound):
    code = "CREDENTIAL_NOT_FOUND"
    title = "The agent has no such credential."


class CredentialAlreadyRevoked(Conflict):
    code = "CREDENTIAL_ALREADY_REVOKED"
    title = "The credential is revoked, which is final; generate a new one."


class TooManyCredentials(Conflict):
    title = "The agent has as many active credentials as it may have; revoke one first."


class KeyAlreadyRegistered(Conflict):
    title = "The agent has this key already; a second credential with it would keep it alive when the first is revoked."


class KeysPublishedElsewhere(Conflict):
    title = "The agent publishes its keys already; revoke that credential before you register another address."


class KeyNotRotated(Conflict):
    title = (
        "Only a secret is rotated. A key is replaced by another credential: generate one for the new key, and revoke this one when nobody uses it any longer."
    )


@dataclass(frozen=True, slots=True)
class Credential:
    """Instants are milliseconds. `status` is derived: a decommissioned agent's credentials are revoked."""

    credential_id: str
    client_id: str
    kind: str
    status: str
    hint: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A secret as it is shown, once; only its keyed hash is kept."""

    text: str
    credential_key: str

    @property
    def hint(self) -> str:
        """Enough to recognise the secret, nothing to guess it by."""
        return f"aidp_sk_{self.credential_key}_…"

    def __repr__(self) -> str:
        return f"ClientSecret({self.hint})"


def new_client_secret() -> ClientSecret:
    key = random_base62(_KEY_CHARACTERS)
    body = f"aidp_sk_{key}_{base62(randbits(256), _SECRET_CHARACTERS)}"
    return ClientSecret(f"{body}_{_checksum(body)}", key)


def parse_client_secret(presented_secret: str) -> ClientSecret | None:
    """The presented secret if it has the right form and checksum, which says nothing about its being right."""
    match = _SECRET.fullmatch(presented_secret)
    if match is None or _checksum(match[1]) != match[3]:
        return None
    return ClientSecret(presented_secret, match[2])


def credential_status(*, revoked_at: int | None, expires_at: int | None, agent_status: str, now: int) -> str:
    if revoked_at is not None or agent_status == "decommissioned":
        return "revoked"
    return "expired" if expires_at is not None and expires_at <= now else "active"


def refusal_reason(stored: SecretSnapshot | None, presented_hash: bytes, client_id: str, now: int) -> str | None:
    """Why this secret does not authenticate this client, None when it does. For the audit trail only: clients get one answer for all.

    The same comparison is made whether or not the secret is known.
    """
    matches = hmac.compare_digest(presented_hash, stored.secret_hash if stored is not None else bytes(len(presented_hash)))
    if stored is None:
        return "unknown secret"
    credential = stored.credential
    if not matches:
        return "wrong secret"
    if credential.agent_id != client_id:
        return "secret of another client"
    status = credential_status(revoked_at=credential.revoked_at, expires_at=credential.expires_at, agent_status=credential.agent_status, now=now)
    if status != "active":
        return f"{status} credential"
    if stored.valid_until is not None and stored.valid_until <= now:
        return "rotated secret"
    return None


def require_may_manage(caller: Caller, agent_id: str, agent_scopes: frozenset[str], scope: str) -> None:
    """An agent manages its own credentials with any token that it got by itself; another's with `scope` and only when its token holds all that agent may do.

    Otherwise whoever may write agents could take the identity of a more powerful one. With a token that was made of another, or given by a trust policy, none is made for
    its agent, whatever the scopes: what its holder is trusted with ends with it. Raises Forbidden.
    """
    if caller.agent_id == agent_id and not caller.is_delegated:
        return
    denied = AuditEntry("access.denied", "failure", "agent", agent_id, metadata={"requiredScope": scope})
    if caller.agent_id == agent_id and scope.endswith(":write"):
        raise Forbidden("A token that was made of another one, or given by a trust policy, does not manage the agent's credentials.", audit=[denied])
    if scope not in caller.scopes:
        raise Forbidden(f"Managing the agent's credentials needs a token with scope {scope}.", scope=scope, audit=[denied])
    if scope.endswith(":write") and OPERATOR_SCOPE not in caller.scopes and agent_scopes - caller.scopes:
        needed = " ".join(sorted({scope, *agent_scopes}))
        raise Forbidden("The agent may do more than your token may, so you cannot make credentials for it.", scope=needed, audit=[denied])


def require_administrator(caller: Caller, agent_id: str, *, is_one: bool) -> None:
    """An administrator's credentials are for itself, other administrators and the operator: whoever has one acts with its role.

    Raises Forbidden.
    """
    if (caller.is_delegated or not is_one) and OPERATOR_SCOPE not in caller.scopes:
        denied = AuditEntry("access.denied", "failure", "agent", agent_id, metadata={"requiredScope": OPERATOR_SCOPE})
        detail = "The agent administers the organization; only it, another administrator or the operator may manage its credentials."
        raise Forbidden(detail, scope=OPERATOR_SCOPE, audit=[denied])


def _checksum(body: str) -> str:
    return base62(zlib.crc32(body.encode()), _CHECKSUM_CHARACTERS)
