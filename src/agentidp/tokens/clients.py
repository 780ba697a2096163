"""The form of an OAuth request and how its client authenticates: HTTP Basic or the body, never both (RFC 6749 section 2.3.1)."""

import base64
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_plus

from starlette.requests import Request

from agentidp.core.caller import AuditEntry
from agentidp.core.errors import Invalid, UnsupportedMediaType
from agentidp.core.http import header_values, media_type, parse_form, read_body
from agentidp.credentials.rules import parse_client_secret
from agentidp.tokens.rules import InvalidClient

Form = dict[str, list[str]]

_BASIC = re.compile(r"basic +([A-Za-z0-9+/]+={0,2})", re.IGNORECASE | re.ASCII)
_REPEATABLE = frozenset({"resource", "audience"})
_BODY_ONLY = frozenset(
    {
        *("client_id", "client_secret", "token", "grant_type", "scope", "resource", "audience", "token_type_hint", "assertion"),
        *("subject_token", "subject_token_type", "actor_token", "actor_token_type", "requested_token_type"),
    }
)


@dataclass(frozen=True, slots=True)
class PresentedClient:
    """What a client says it is. Nothing of it is proven."""

    client_id: str
    presented_secret: str = field(repr=False)

    @property
    def credential_key(self) -> str:
        """Where to look the secret up; empty, which is nobody's, when it has not even the form of one."""
        secret = parse_client_secret(self.presented_secret)
        return secret.credential_key if secret is not None else ""


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
        if value:
            values.append(value)
    return {name: values for name, values in form.items() if values}


def presented_client(request: Request, form: Form) -> PresentedClient | None:
    """The client's id and secret, None when it presents neither. Raises Invalid when it uses two methods at once, InvalidClient for bad Basic."""
    headers = header_values(request, b"authorization")
    if not headers:
        if "client_secret" not in form:
            return None
        return PresentedClient(form.get("client_id", [""])[0], form["client_secret"][0])
    if "client_secret" in form:
        raise Invalid("The client must authenticate either in the Authorization header or in the body, not in both.")
    match = _BASIC.fullmatch(headers[0]) if len(headers) == 1 else None
    if match is None:
        raise _malformed()
    try:
        name, separator, secret = base64.b64decode(match[1], validate=True).decode().partition(":")
        client = PresentedClient(unquote_plus(name, errors="strict"), unquote_plus(secret, errors="strict"))
    except ValueError as error:
        raise _malformed() from error
    if not separator:
        raise _malformed()
    if form.get("client_id", [client.client_id]) != [client.client_id]:
        raise Invalid("client_id in the body is not the client of the Authorization header.")
    return client


def require_no_secret(request: Request, form: Form) -> None:
    """Where what is presented is the whole proof, a secret beside it would only seem to be looked at. Raises Invalid."""
    if "client_secret" in form or header_values(request, b"authorization"):
        raise Invalid("This grant needs no client authentication; send no client_secret and no Authorization header.")


def _malformed() -> InvalidClient:
    return InvalidClient(audit=[AuditEntry("auth.failed", "failure", metadata={"reason": "malformed Authorization header"})])
