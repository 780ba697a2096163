"""HTTP in its raw form: bounded bodies, strict JSON and forms, the source of a request, and the two renderers of errors.

Knows no operation. RFC 9110, RFC 6749 section 5.2, WHATWG URL section 5.1 (forms).
"""

import asyncio
import functools
import ipaddress
from collections.abc import Mapping, Sequence
from urllib.parse import unquote_plus

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Scope, Send

from agentidp.core import limits, strict_json
from agentidp.core.caller import Origin
from agentidp.core.config import Network
from agentidp.core.errors import Invalid, PayloadTooLarge, Problem, UnsupportedMediaType

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class JsonResponse(Response):
    """A JSON answer through the fast encoder."""

    media_type = "application/json"

    def __init__(self, content: object, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """As the parent, without its look at each header."""
        self.status_code, self.background, self.body = status_code, None, msgspec.json.encode(content)
        self.raw_headers = [(b"content-length", b"%d" % len(self.body)), (b"content-type", b"application/json")]
        self.raw_headers += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]


class PacedResponse(StreamingResponse):
    """At the pace of its reader, who is cut off when it takes nothing, or too little, for too long."""

    async def stream_response(self, send: Send) -> None:
        seconds_left, clock = float(limits.STREAM_SECONDS_MAX), asyncio.get_running_loop().time

        async def send_in_time(message: Message) -> None:
            nonlocal seconds_left
            begun = clock()
            async with asyncio.timeout_at(begun + seconds_left):
                await send(message)
            earned = len(message.get("body", b"")) / limits.STREAM_BYTES_PER_SECOND_MIN
            seconds_left = min(seconds_left - (clock() - begun) + earned, limits.STREAM_SECONDS_MAX)

        await super().stream_response(send_in_time)


def header_values(request: Request, name: bytes) -> list[str]:
    """Every value of a header (its name in lower case), straight from the request: many times faster than through Starlette's mapping."""
    single: dict[bytes, bytes] | None = request.scope.get(_SINGLE_HEADERS)
    if single is not None:
        return [single[name].decode("latin-1")] if name in single else []
    return [value.decode("latin-1") for key, value in request.scope["headers"] if key == name]


def index_headers(scope: Scope) -> None:
    """Make `header_values` fast for this request, unless a header repeats."""
    headers = dict(scope["headers"])
    if len(headers) == len(scope["headers"]):
        scope[_SINGLE_HEADERS] = headers


_SINGLE_HEADERS = "agentidp.single_headers"


def media_type(request: Request) -> str:
    """The media type without parameters, in lower case; empty when absent or sent twice."""
    values = header_values(request, b"content-type")
    return values[0].partition(";")[0].strip().lower() if len(values) == 1 else ""


async def read_body(request: Request, seconds_max: float = limits.REQUEST_BODY_SECONDS_MAX) -> bytes:
    """The whole body. Raises PayloadTooLarge as soon as it is, UnsupportedMediaType if compressed, Invalid if it drips for too long."""
    if any(value.lower() != "identity" for value in header_values(request, b"content-encoding")):
        raise UnsupportedMediaType("A compressed body is not accepted.")
    for declared in header_values(request, b"content-length"):
        if declared.isdecimal() and int(declared) > limits.BODY_BYTES_MAX:
            raise PayloadTooLarge
    message = await request.receive()
    body = message.get("body", b"")
    if message.get("more_body"):  # rarely: most bodies arrive with their head, and then nothing needs a timer
        body = await _rest_of_body(request, body, seconds_max)
    elif message["type"] == "http.disconnect":
        raise Invalid("The connection was closed before the body was complete.")
    if len(body) > limits.BODY_BYTES_MAX:
        raise PayloadTooLarge
    return bytes(body)


async def _rest_of_body(request: Request, begun: bytes, seconds_max: float) -> bytearray:
    body = bytearray(begun)
    try:
        async with asyncio.timeout(seconds_max):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.BODY_BYTES_MAX:
                    raise PayloadTooLarge
    except TimeoutError as error:
        raise Invalid("The body did not arrive in time.") from error
    except ClientDisconnect as error:
        raise Invalid("The connection was closed before the body was complete.") from error
    return body


def parse_json(raw_body: bytes) -> object:
    """The value of a strict JSON body. Raises Invalid."""
    try:
        return strict_json.parse(raw_body)
    except strict_json.NotStrictJson as error:
        raise Invalid(f"The body {error}.") from error


def parse_form(raw_body: bytes) -> list[tuple[str, str]]:
    """The pairs of an `application/x-www-form-urlencoded` body; only `&` separates. Raises Invalid."""
    if not raw_body:
        return []
    pairs = raw_body.split(b"&")
    if len(pairs) > limits.FORM_PARAMETERS_MAX:
        raise Invalid(f"The form may have at most {limits.FORM_PARAMETERS_MAX} parameters.")
    try:
        parts = [pair.decode("ascii").partition("=") for pair in pairs if pair]
        if b"%" not in raw_body and b"+" not in raw_body:
            return [(name, value) for name, _, value in parts]
        return [(unquote_plus(name, errors="strict"), unquote_plus(value, errors="strict")) for name, _, value in parts]
    except UnicodeError as error:
        raise Invalid("The form is not valid UTF-8 in application/x-www-form-urlencoded.") from error


def origin_of(request: Request, request_id: str, trusted: Sequence[Network]) -> Origin:
    """Where the request comes from. `X-Forwarded-For` counts only when a trusted proxy sent it, and then its right-most foreign hop."""
    user_agent = _user_agent("".join(header_values(request, b"user-agent")[:1])[: limits.USER_AGENT_CHARACTERS_MAX])
    return Origin(client_address(request, trusted), user_agent, request_id)


@functools.lru_cache(limits.REPEATED_HEADERS_MAX)  # clients send the same one with every request
def _user_agent(text: str) -> str:
    return printable(text, limits.USER_AGENT_CHARACTERS_MAX)


def client_address(request: Request, trusted: Sequence[Network]) -> str | None:
    """The client's address in canonical form, None where the transport has none."""
    client = request.scope.get("client")
    if not trusted:
        return _canonical(client[0]) if client else None
    address = _address(client[0] if client else "")
    hops = [hop.strip() for value in request.headers.getlist("x-forwarded-for") for hop in value.split(",")]
    while address is not None and hops and any(address in network for network in trusted):
        hop = _address(hops.pop())
        if hop is None:  # what a trusted proxy wrote there cannot be read: nothing further left is its word
            break
        address = hop
    return str(address) if address else None


def is_local(request: Request) -> bool:
    """Whether the request was made on this machine and not through a proxy on it."""
    address = _address(request.client.host if request.client else "")
    forwarded = any(name in request.headers for name in ("x-forwarded-for", "forwarded", "x-real-ip", "via"))
    return address is not None and address.is_loopback and not forwarded


def printable(text: str, length: int) -> str:
    """At most `length` characters, everything that is not printable (line ends, NUL, bidirectional marks) escaped."""
    escaped = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:length])
    return escaped[:length]


def api_error(problem: Problem) -> dict[str, object]:
    """`{code, message, details?}`"""
    body: dict[str, object] = {"code": problem.code, "message": problem.detail}
    if problem.details:
        body["details"] = problem.details
    return body


def oauth_error(problem: Problem) -> dict[str, object]:
    """`{error, error_description, code?}` (RFC 6749 section 5.2: printable ASCII without quote and backslash)."""
    description = "".join(char if " " <= char <= "~" and char not in '"\\' else "'" for char in problem.detail)
    body: dict[str, object] = {"error": problem.oauth_error, "error_description": description}
    return body | {"code": problem.shown_code} if problem.shown_code else body


def render(problem: Problem, *, oauth: bool, headers: Mapping[str, str] | None = None) -> Response:
    """The answer for a refusal, in one of the two shapes."""
    body = oauth_error(problem) if oauth else api_error(problem)
    return JsonResponse(body, problem.status, headers=NO_STORE | problem.headers | dict(headers or {}))


@functools.lru_cache(limits.REPEATED_HEADERS_MAX)
def _canonical(text: str) -> str | None:
    address = _address(text)
    return str(address) if address is not None else None


@functools.lru_cache(limits.REPEATED_HEADERS_MAX)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])  # without a zone, which is any text
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address
