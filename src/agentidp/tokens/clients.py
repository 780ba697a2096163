"""The form of an OAuth request, how its client authenticates, and settling what it asks for.

By HTTP Basic, with a secret in the body (RFC 6749 section 2.3.1), or with an assertion (RFC 7521 section 4.2); never in two ways at once.
"""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote_plus

from starlette.requests import Request

from agentidp.auth import throttle
from agentidp.auth.dpop import Proof, invalid_proof
from agentidp.auth.instance import Instance, instance_of
from agentidp.core.caller import AuditEntry
from agentidp.core.errors import Invalid, UnsupportedMediaType
from agentidp.core.http import header_values, media_type, parse_form, read_body
from agentidp.core.secrets import keyed_hash
from agentidp.credentials.rules import parse_client_secret
from agentidp.ledger.entries import ClientKeys, Entry, OneTime, SecretSnapshot, Snapshot, Verdict
from agentidp.tokens.actions import authenticate_client, note_use
from agentidp.tokens.assertions import CLIENT_ASSERTION, presented_assertion
from agentidp.tokens.rules import InvalidClient

D = TypeVar("D")
T = TypeVar("T")
Form = dict[str, list[str]]

_BASIC = re.compile(r"basic +([A-Za-z0-9+/]+={0,2})", re.IGNORECASE | re.ASCII)
_REPEATABLE = frozenset({"resource", "audience"})
_ASSERTION = ("client_assertion_type", "client_assertion")
_BODY_ONLY = frozenset(
    {
        *("client_id", "client_secret", *_ASSERTION, "token", "grant_type", "scope", "resource", "audience", "token_type_hint", "assertion"),
        *("subject_token", "subject_token_type", "actor_token", "actor_token_type", "requested_token_type"),
    }
)


class PresentedClient(Protocol):
    """What a client says it is, in whatever way. Nothing of it is proven before `authenticate`."""

    @property
    def client_id(self) -> str: ...

    @property
    def once(self) -> tuple[OneTime, ...]:
        """What authenticating uses up."""
        ...

    async def find(self) -> SecretSnapshot | ClientKeys | None:
        """What is stored, to compare with."""
        ...

    def authenticate(self, stored: Any, now: int) -> Snapshot:
        """The active agent that it is, as far as the snapshot goes. Raises InvalidClient or UnauthorizedClient, with its audit event."""
        ...


@dataclass(frozen=True, slots=True)
class PresentedSecret:
    """A client's id and secret."""

    client_id: str
    presented_secret: str = field(repr=False)
    instance: Instance = field(repr=False)
    once: tuple[OneTime, ...] = ()

    async def find(self) -> SecretSnapshot | None:
        secret = parse_client_secret(self.presented_secret)
        return await self.instance.ledger.snapshots.find_secret(secret.credential_key if secret is not None else "")  # which is nobody's

    def authenticate(self, stored: SecretSnapshot | None, now: int) -> Snapshot:
        return authenticate_client(stored, keyed_hash(self.instance.secret_key, self.presented_secret), self.client_id, now)


async def read_form(request: Request) -> Form:
    """The parameters of an OAuth request; empty values count as absent. Raises Invalid for repeats and for parameters in the URL."""
    query = request.scope["query_string"]
    if query and {name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)} & _BODY_ONLY:
        raise Invalid("Parameters belong in the body, not in the URL, where they end up in logs.")
    raw_body = await read_body(request)
    if media_type(request) != "application/x-www-form-urlencoded":
        raise UnsupportedMediaType("The body must be sent as application/x-www-form-urlencoded, uncompressed.")
    form: Form = {}
    for name, value in parse_form(raw_body):
        if name in form and name not in _REPEATABLE:
            raise Invalid(f"The parameter {name[:64]} is given more than once.")
        values = form.setdefault(name, [])
        if value or name in _REPEATABLE:  # of those it is counted how often they are given
            values.append(value)
    return {name: values for name, values in form.items() if values}


def presented_client(request: Request, form: Form) -> PresentedClient | None:
    """The client as it presents itself, None when it does not. Raises Invalid when it uses two methods at once, InvalidClient for what is malformed."""
    headers, instance = header_values(request, b"authorization"), instance_of(request)
    has_assertion = any(name in form for name in _ASSERTION)
    if bool(headers) + ("client_secret" in form) + has_assertion > 1:
        raise Invalid("The client must authenticate in one way: in the Authorization header, with a secret in the body, or with an assertion.")
    client_id = form.get("client_id", [None])[0]
    if has_assertion:
        if not all(name in form for name in _ASSERTION):
            raise Invalid("client_assertion and client_assertion_type go together.")
        kind, text = (form[name][0] for name in _ASSERTION)
        return presented_assertion(kind, text, client_id, instance)
    if "client_secret" in form:
        return PresentedSecret(client_id or "", form["client_secret"][0], instance)
    return _from_basic(headers, client_id, instance) if headers else None


def _from_basic(headers: list[str], client_id: str | None, instance: Instance) -> PresentedSecret:
    match = _BASIC.fullmatch(headers[0]) if len(headers) == 1 else None
    if match is None:
        raise _malformed()
    try:
        name, separator, secret = base64.b64decode(match[1], validate=True).decode().partition(":")
        client = PresentedSecret(unquote_plus(name, errors="strict"), unquote_plus(secret, errors="strict"), instance)
    except ValueError as error:
        raise _malformed() from error
    if not separator:
        raise _malformed()
    if client_id not in {None, client.client_id}:
        raise Invalid("client_id in the body is not the client of the Authorization header.")
    return client


def require_no_client(request: Request, form: Form) -> None:
    """Where what is presented is the whole proof, a client's own beside it would only seem to be looked at. Raises Invalid."""
    if "client_secret" in form or any(name in form for name in _ASSERTION) or header_values(request, b"authorization"):
        raise Invalid("This grant needs no client authentication; send no client_secret, no client_assertion and no Authorization header.")


async def settle(
    request: Request, client: PresentedClient, decide: Callable[[Snapshot, int], tuple[Entry, D]], prepare: Callable[[D], T], proof: Proof | None = None
) -> tuple[Entry, T]:
    """Authenticate the client, let it be decided at an instant what it gets, and append that; see `Ledger.settle`.

    The entry is recorded or over the limit; what the client authenticated with, and the proof, are used up if it is recorded. Raises InvalidClient,
    UnauthorizedClient, RateLimited, InvalidProof, Unavailable, and what `decide` raises.
    """
    instance = instance_of(request)
    throttle.present(request, client.client_id)
    once = client.once if proof is None else (*client.once, proof.once)

    async def authenticated(stored: Any) -> tuple[Entry, D]:
        now = instance.clock()
        agent = client.authenticate(stored, now)
        await throttle.admit(request, agent)
        entry, decision = decide(agent, now)
        entry.once = once
        return entry, decision

    entry, answer = await instance.ledger.settle(client.find, authenticated, prepare)
    if entry.verdict is Verdict.REPLAYED:
        agent = {"organization_id": entry.snapshot.organization_id, "agent_id": entry.snapshot.agent_id}
        if entry.replayed != CLIENT_ASSERTION:
            raise invalid_proof("used before", **agent)
        raise InvalidClient(audit=[AuditEntry("auth.failed", "failure", metadata={"reason": "client assertion: used before"}, **agent)])
    if entry.verdict is Verdict.RECORDED:
        note_use(entry, instance.clock())
    return entry, answer


def _malformed() -> InvalidClient:
    return InvalidClient(audit=[AuditEntry("auth.failed", "failure", metadata={"reason": "malformed Authorization header"})])
