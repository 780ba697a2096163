"""The composition root: builds the ASGI application out of the slices' routers. Decides nothing."""

import contextlib
import functools
import itertools
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentidp import documents, health, worker
from agentidp.agents import api as agents
from agentidp.analytics import api as analytics
from agentidp.audit import api as audit
from agentidp.auth.dpop import nonce_headers
from agentidp.auth.guard import OAuthRoute, internal_error
from agentidp.auth.instance import Instance
from agentidp.auth.throttle import rate_headers
from agentidp.billing import api as billing
from agentidp.core import limits
from agentidp.core.clock import Clock, system_clock
from agentidp.core.config import Settings
from agentidp.core.errors import HeadersTooLarge, Invalid, MethodNotAllowed, NotFound, Problem, UriTooLong
from agentidp.core.http import header_values, index_headers, origin_of, render
from agentidp.core.ids import new_id
from agentidp.credentials import api as credentials
from agentidp.oidc import api as oidc
from agentidp.organizations import api as organizations
from agentidp.policies import api as policies
from agentidp.start import Started, start
from agentidp.tiers import api as tiers
from agentidp.tokens import api as tokens

ROUTERS: tuple[APIRouter, ...] = (
    agents.router,
    credentials.router,
    tokens.oauth_router,
    tokens.exchange_router,
    tokens.router,
    policies.router,
    organizations.router,
    audit.router,
    analytics.router,
    tiers.router,
    tiers.upgrade_router,
    billing.router,
    billing.usage_router,
    oidc.oauth_router,
    oidc.router,
    health.router,
    documents.router,
)
# what `settings.features` can take away
FEATURES: dict[str, tuple[APIRouter, ...]] = {"analytics": (analytics.router,), "billing": (billing.router, tiers.upgrade_router)}


def _routes_of(routers: Iterable[APIRouter]) -> list[APIRoute]:
    return [route for router in routers for route in router.routes if isinstance(route, APIRoute)]


ROUTES: tuple[APIRoute, ...] = tuple(_routes_of(ROUTERS))


def methods_of(route: APIRoute) -> list[str]:
    return sorted(route.methods or ())


access_log = logging.getLogger("agentidp.access")
_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{limits.REQUEST_ID_CHARACTERS_MAX}}}", re.ASCII)
_SECURITY_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY")]
_OAUTH_PREFIXES = ("/api/v1/token", "/api/v1/oidc/token")


def create_app(
    settings: Settings,
    clock: Clock = system_clock,
    *,
    on_start: Callable[[Started], None] = lambda _: None,
    on_failure: Callable[[BaseException], None] = lambda _: None,
) -> ASGIApp:
    """The whole server as one ASGI application. Its lifespan opens and closes the database; `on_start` and `on_failure` see how that went."""
    app: ASGIApp = Edge(settings, clock, on_start, on_failure)
    if settings.cors.origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors.origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "DPoP"],
            expose_headers=["X-Request-Id", "Retry-After", "WWW-Authenticate", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "DPoP-Nonce"],
        )
    return app


class Edge:
    """What every request passes: its id, its origin, the bounds on its head, the clock on its answer; then the endpoint.

    OAuth endpoints are served straight from here; everything else goes through the framework.
    """

    def __init__(self, settings: Settings, clock: Clock, on_start: Callable[[Started], None], on_failure: Callable[[BaseException], None]) -> None:
        self._settings, self._clock, self._on_start, self._on_failure = settings, clock, on_start, on_failure
        routers = [router for router in ROUTERS if _is_on(router, settings)]
        routes = _routes_of(routers)
        self._oauth = {(method, route.path): route for route in routes if isinstance(route, OAuthRoute) for method in methods_of(route)}
        self.oauth_targets = {(method.encode(), path.encode()): route for (method, path), route in self._oauth.items()}
        self._framework = _framework(routers, routes)
        self._openapi = documents.build_openapi(routes, settings.issuer)
        self._instance: Instance
        self._probe: health.Probe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Instance]:
        started = await start(self._settings, self._clock)
        self._instance = started.instance
        self._probe = health.Probe(started.instance)
        try:
            await started.instance.rates.open()
            async with self._probe.running(), worker.running(started.instance):
                self._on_start(started)
                yield started.instance
        finally:
            await started.instance.outgoing.close()
            await started.instance.rates.close()
            await started.instance.database.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self.running():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:  # noqa: BLE001 - the server is told, and whoever started it
            self._on_failure(error)
            await send({"type": "lifespan.startup.failed", "message": ""})
            return
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if route := self._oauth.get((scope["method"], scope["path"])):
            await (await self.answer(route, scope, receive))(scope, receive, send)
            return
        started, request = time.perf_counter(), Request(scope, receive)
        request_id, status = self._begin(request), 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_stamp(request_id, request)]
            await send(message)

        try:
            if refusal := _bad_head(request):
                await render(refusal, oauth=_is_oauth(scope))(scope, receive, stamped)
            else:
                await self._framework(scope, receive, stamped)
        except Exception:
            if status:
                raise  # the answer had begun: cut the connection
            await internal_error(request, oauth=_is_oauth(scope))(scope, receive, stamped)
        finally:
            self._observe(scope, status, time.perf_counter() - started, request_id)

    async def answer(self, route: OAuthRoute, scope: Scope, receive: Receive) -> Response:
        """The whole answer of an OAuth endpoint, ready to be sent. `server` asks here without the detour through ASGI's messages."""
        started, request = time.perf_counter(), Request(scope, receive)
        request_id = self._begin(request)
        try:
            refusal = _bad_head(request)
            response = render(refusal, oauth=_is_oauth(scope)) if refusal else await route.serve(request)
        except Exception:  # noqa: BLE001 - as in `guard`
            response = internal_error(request, oauth=_is_oauth(scope))
        response.raw_headers += _stamp(request_id, request)
        self._observe(scope, response.status_code, time.perf_counter() - started, request_id)
        return response

    def _begin(self, request: Request) -> str:
        """Put into the scope what endpoints need; returns the request's id."""
        scope = request.scope
        index_headers(scope)
        request_id = _request_id(request, self._clock)
        scope["agentidp.instance"], scope["agentidp.probe"], scope["agentidp.openapi"] = self._instance, self._probe, self._openapi
        scope["agentidp.origin"] = origin_of(request, request_id, self._settings.trusted_proxies)
        return request_id

    def _observe(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route, method = scope.get("agentidp.route", "none"), scope["method"] if scope["method"] in _METHODS else "other"
        self._instance.metrics.observe_request(method, route, status, seconds)
        if access_log.isEnabledFor(logging.INFO):
            fields = {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 2), "request_id": request_id}
            access_log.info("request", extra=fields)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _is_on(router: APIRouter, settings: Settings) -> bool:
    if router in FEATURES["billing"] and settings.stripe.api_key is None:
        return False
    return all(getattr(settings.features, name) for name, routers in FEATURES.items() if router in routers)


def _framework(routers: Sequence[APIRouter], routes: Sequence[APIRoute]) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    for router in routers:
        app.include_router(router)
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {HTTPException: functools.partial(_unrouted, routes)}
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    return app


async def _unrouted(routes: Sequence[APIRoute], request: Request, _: HTTPException) -> Response:
    """No route took the request: 405 with every method that the path knows, or 404. A path that has a name of its own is no other's parameter."""
    path = request.scope["path"]
    own = [route for route in routes if route.path == path] or [route for route in routes if route.path_regex.match(path)]
    allowed = sorted({method for route in own for method in methods_of(route)})
    problem: Problem = MethodNotAllowed(headers={"Allow": ", ".join(allowed)}) if allowed else NotFound()
    return render(problem, oauth=_is_oauth(request.scope))


def _request_id(request: Request, clock: Clock) -> str:
    """The caller's own id when it is harmless, else a fresh one."""
    given = header_values(request, b"x-request-id")
    return given[0] if given and _REQUEST_ID.fullmatch(given[0]) else new_id(clock())


def _is_oauth(scope: Scope) -> bool:
    """Which of the two shapes an error has."""
    path: str = scope["path"]
    return path.startswith(_OAUTH_PREFIXES)


def _stamp(request_id: str, request: Request) -> list[tuple[bytes, bytes]]:
    """The headers that every answer has."""
    return [(b"x-request-id", request_id.encode()), *_SECURITY_HEADERS, *rate_headers(request.scope), *nonce_headers(request)]


def _bad_head(request: Request) -> Problem | None:
    """What is wrong with the request line and the headers, whatever the operation."""
    scope = request.scope
    if len(scope["raw_path"]) > limits.PATH_BYTES_MAX or len(scope["query_string"]) > limits.QUERY_BYTES_MAX:
        return UriTooLong()
    headers = scope["headers"]
    if len(headers) > limits.HEADER_COUNT_MAX or sum(map(len, itertools.chain.from_iterable(headers))) > limits.HEADER_BYTES_MAX:
        return HeadersTooLarge()
    hosts = len(header_values(request, b"host"))
    if hosts > 1 or (hosts == 0 and scope["http_version"] == "1.1"):  # RFC 9112 section 3.2
        return Invalid("A request has exactly one Host header.")
    if b"%" in scope["raw_path"]:  # no path of ours needs it, and a proxy in front may read it differently
        return NotFound()
    return None
