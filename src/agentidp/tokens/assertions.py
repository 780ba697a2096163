"""Client assertions: a client authenticates with a JWT that it signed with a key that it registered or publishes, `private_key_jwt`.

RFC 7523 section 3 with the audience of 7523bis: our issuer and nothing else, so that an assertion is of no use elsewhere. That it is used
once, and that its key is still registered, the ledger's commit confirms.
"""

from dataclasses import dataclass, field

from agentidp.auth.claims import LEEWAY_MS, instant, media_type, past_instant, token_id
from agentidp.auth.instance import Instance
from agentidp.auth.jwk import parse_public, thumbprint
from agentidp.auth.jws import InvalidToken, PublicKey, UnverifiedToken, parse_unverified, verify_signature
from agentidp.auth.outside_keys import IssuerUnreachable, OutsideKey
from agentidp.core import limits
from agentidp.core.caller import AuditEntry
from agentidp.core.errors import Unavailable
from agentidp.core.ids import is_id
from agentidp.credentials.rules import credential_status
from agentidp.ledger.entries import ClientKey, ClientKeys, OneTime, Snapshot
from agentidp.tokens.actions import require_active
from agentidp.tokens.rules import InvalidClient

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
CLIENT_ASSERTION = "client_assertion"  # the kind of its one-time value
_TYPES = (None, "jwt", "client-authentication+jwt")
_LIFE_MS_MAX = limits.CLIENT_ASSERTION_SECONDS_MAX * 1000 + LEEWAY_MS


@dataclass(frozen=True, slots=True)
class PresentedAssertion:
    """An assertion whose claims are right. Nobody has looked at its signature."""

    client_id: str
    once: tuple[OneTime, ...]
    _token: UnverifiedToken
    _instance: Instance
    # By where the client publishes its keys: the one that it names, or why nobody knows.
    _published: dict[str, OutsideKey | IssuerUnreachable | None] = field(default_factory=dict)

    async def find(self) -> ClientKeys | None:
        """Also looks the key up where the client publishes them. That nobody answers there, `authenticate` says: the client may have changed the address since."""
        stored, key_id = await self._instance.ledger.snapshots.find_keys(self.client_id), self._token.header.get("kid")
        self._published.clear()
        if stored is None or key_id is None or any(key_id in _names(key) for key in stored.keys):
            return stored
        now, whose = self._instance.clock(), stored.keys[0].credential.organization_id
        for uri in {key.jwks_uri for key in stored.keys if key.jwks_uri is not None and _is_active(key.credential, now)}:  # one at most
            try:
                self._published[uri] = await self._instance.outside_keys.find(uri, key_id, whose=whose, jwks_uri=uri)
            except IssuerUnreachable as error:
                self._published[uri] = error
        return stored

    def authenticate(self, stored: ClientKeys | None, now: int) -> Snapshot:
        """The active agent behind the key, as far as the snapshot goes.

        Raises InvalidClient or UnauthorizedClient, with its audit event; Unavailable when nobody can tell whether it is the client.
        """
        if stored is None:
            raise _refused("unknown client, or one without keys")
        for key in stored.keys:
            if _is_active(key.credential, now) and self._is_signed_with(key):
                return require_active(key.credential, now)
        for unreachable in self._published.values():
            if isinstance(unreachable, IssuerUnreachable):
                raise Unavailable("The keys of the client cannot be had right now; nothing was done. Please try again.") from unreachable
        known = stored.keys[0].credential
        raise _refused("signed with no active key of the client", organization_id=known.organization_id, agent_id=known.agent_id)

    def _is_signed_with(self, key: ClientKey) -> bool:
        if key.public_jwk is None:
            published = self._published.get(key.jwks_uri or "")
            return isinstance(published, OutsideKey) and _verifies(published.algorithm, published.key, self._token)
        if self._token.header.get("kid") not in {None, *_names(key)}:
            return False
        registered = parse_public(key.public_jwk)
        return _verifies(registered.algorithm, registered.public_key, self._token)


def presented_assertion(assertion_type: str, text: str, client_id: str | None, instance: Instance) -> PresentedAssertion:
    """The assertion, if it could be one of that client. Raises InvalidClient, which says why: it knows nothing of any client yet."""
    if assertion_type != ASSERTION_TYPE:
        raise _wrong(f"client_assertion_type is not {ASSERTION_TYPE}")
    try:
        token = parse_unverified(text)
        subject, once = _checked(token, instance.settings.issuer, instance.clock())
    except InvalidToken as error:
        raise _wrong(f"client assertion: {error}") from error
    if client_id not in {None, subject}:
        raise _wrong("client_id is not the client of the assertion")
    return PresentedAssertion(subject, (once,), token, instance)


def _checked(token: UnverifiedToken, issuer: str, now: int) -> tuple[str, OneTime]:
    """The client and the value that may be used once."""
    claims = token.payload
    if media_type(token.header) not in _TYPES:
        raise InvalidToken("typ is not that of a client assertion")
    client_id = claims.get("sub")
    if not isinstance(client_id, str) or not is_id(client_id) or claims.get("iss") != client_id:
        raise InvalidToken("iss and sub are not the client")
    if claims.get("aud") not in (issuer, [issuer]):
        raise InvalidToken(f"aud is not the issuer alone, {issuer}")
    expires_at, issued_at = instant(claims, "exp"), past_instant(claims, "iat", now)
    past_instant(claims, "nbf", now)
    if expires_at is None or expires_at <= now:
        raise InvalidToken("expired")
    if expires_at > now + _LIFE_MS_MAX:
        raise InvalidToken("lives longer than any assertion")
    first_use = max(issued_at or 0, expires_at - _LIFE_MS_MAX)
    return client_id, OneTime.of(CLIENT_ASSERTION, client_id, token_id(claims), issued_at=first_use, expires_at=expires_at)


def _is_active(credential: Snapshot, now: int) -> bool:
    status = credential_status(revoked_at=credential.revoked_at, expires_at=credential.expires_at, agent_status=credential.agent_status, now=now)
    return status == "active"


def _names(key: ClientKey) -> tuple[str, ...]:
    """How an assertion may name a registered key; one that is published has the name that it is published under."""
    return () if key.public_jwk is None else (key.credential.credential_id, thumbprint(key.public_jwk))


def _verifies(algorithm: str, key: PublicKey, token: UnverifiedToken) -> bool:
    try:
        verify_signature(algorithm, key, token)
    except InvalidToken:
        return False
    return True


def _wrong(reason: str) -> InvalidClient:
    return InvalidClient(reason, audit=[AuditEntry("auth.failed", "failure", metadata={"reason": reason})])


def _refused(reason: str, **agent: str) -> InvalidClient:
    return InvalidClient(audit=[AuditEntry("auth.failed", "failure", metadata={"reason": reason}, **agent)])
