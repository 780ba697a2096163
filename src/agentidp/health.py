"""/health, /health/detailed and /metrics: what the process knows about itself and the database behind it.

The database is looked at once a second in the background, so that a stalled one never delays an answer.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Literal, get_args

import sqlalchemy as sa
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from agentidp import __version__
from agentidp.auth.guard import PUBLIC, GuardedRoute, authenticate
from agentidp.auth.instance import Instance, instance_of
from agentidp.core import limits
from agentidp.core.caller import OPERATOR_SCOPE, Caller
from agentidp.core.errors import Forbidden, TooManyRequests, Unauthenticated
from agentidp.core.http import JsonResponse, is_local
from agentidp.core.operations import ALWAYS, error_responses
from agentidp.db.unit import Tx
from agentidp.events.nats import Publisher

router = APIRouter(route_class=GuardedRoute)

_LOCAL_OR_OPERATOR = {
    "x-scope": PUBLIC,
    "x-scope-otherwise": OPERATOR_SCOPE,
    "x-scope-note": "Only from this machine without a proxy; else with admin:orgs.",
    "security": [{}, {"bearer": []}],
}
Status = Literal["healthy", "degraded", "unreachable"]
_SEVERITY = get_args(Status)
_REPORT: dict[str, Any] = {"status": "degraded", "version": __version__, "uptimeSeconds": 86400}
_DEGRADED = {"application/json": {"examples": {"degraded": {"value": _REPORT | {"services": {"database": "degraded"}}}}}}
_SERVICE = {"status": "unreachable", "latencyMs": 0.4, "version": "SQLite 3.50.4"}
_DETAILS = {"services": {"database": _SERVICE}, "parkedBillingEvents": 0, "webhooks": {"lagSeconds": 0, "deadLetters": 0}}
_UNREACHABLE = {"application/json": {"examples": {"unreachable": {"value": _REPORT | _DETAILS}}}}


class Probe:
    """The last look at the database."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._started = time.monotonic()
        self._answered_at = float("-inf")
        self._failed = False
        self.latency_ms = 0.0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look once now, then every second until the block ends."""
        await self._look()
        task = asyncio.create_task(self._loop())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def uptime_seconds(self) -> int:
        return int(time.monotonic() - self._started)

    def status(self) -> Status:
        """healthy: answered lately; degraded: late, or the last look failed; unreachable: silent for several looks."""
        silence = time.monotonic() - self._answered_at
        if silence > limits.PROBE_STALE_SECONDS:
            return "unreachable"
        return "degraded" if self._failed or silence > 2 * limits.PROBE_INTERVAL_SECONDS else "healthy"

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(limits.PROBE_INTERVAL_SECONDS)
            await self._look()

    async def _look(self) -> None:
        """One read and one empty write: the first finds a lost database, the second a full or locked one."""
        started = time.monotonic()
        nobody = Caller(organization_id="")
        try:
            async with asyncio.timeout(limits.PROBE_INTERVAL_SECONDS):
                await self._instance.database.read(_select_one, nobody)
                await self._instance.database.write(_select_one, nobody)
        except Exception:  # noqa: BLE001 - whatever it was, the database did not answer
            self._failed = True
        else:
            self._failed = False
            self._answered_at = time.monotonic()
            self.latency_ms = round((self._answered_at - started) * 1000, 3)


def _select_one(tx: Tx) -> None:
    tx.run(sa.select(sa.literal(1)))


class Health(BaseModel):
    """`ok` while every service is healthy."""

    status: Literal["ok", "degraded"]
    version: str
    uptimeSeconds: int  # noqa: N815 - the name on the wire
    services: dict[str, Status]


class ServiceHealth(BaseModel):
    """One dependency."""

    status: Status
    latencyMs: float = Field(description="Of the last look that was answered.")  # noqa: N815 - the name on the wire
    version: str


class WebhooksHealth(BaseModel):
    """All organizations' webhooks together, as last looked at."""

    lagSeconds: float = Field(  # noqa: N815 - the name on the wire
        description=f"How long the oldest delivery that is due waits for this server, those to receivers that fail left out. Beyond {limits.WEBHOOK_LAG_SECONDS_MAX} the server does not keep up, and is degraded."
    )
    deadLetters: int = Field(description="Deliveries that were given up, as long as they are kept: their organizations' matter.")  # noqa: N815 - as above


class DetailedHealth(BaseModel):
    """Every dependency."""

    status: Literal["ok", "degraded"]
    version: str
    uptimeSeconds: int  # noqa: N815 - the name on the wire
    services: dict[str, ServiceHealth]
    parkedBillingEvents: int = Field(0, description="Events of Stripe that were given up; sending one again from Stripe's dashboard revives it.")  # noqa: N815 - as above
    webhooks: WebhooksHealth


@router.get(
    "/health",
    tags=["Health"],
    operation_id="getHealth",
    response_model=Health,
    responses={**error_responses(ALWAYS), 503: {"model": Health, "description": "Degraded.", "content": _DEGRADED}},
    openapi_extra={"x-scope": PUBLIC, "security": []},
)
async def health(request: Request) -> Response:
    """Whether this process can serve. Always answers at once."""
    probe = _probe(request)
    status = probe.status()
    body = {
        "status": "ok" if status == "healthy" else "degraded",
        "version": __version__,
        "uptimeSeconds": probe.uptime_seconds,
        "services": {"database": status},
    }
    return JsonResponse(body, 200 if status == "healthy" else 503, headers={"Cache-Control": "no-store"})


@router.get(
    "/health/detailed",
    tags=["Health"],
    operation_id="getDetailedHealth",
    response_model=DetailedHealth,
    responses={
        **error_responses((*ALWAYS, Unauthenticated, Forbidden, TooManyRequests)),
        207: {"model": DetailedHealth, "description": "Degraded."},
        503: {"model": DetailedHealth, "description": "Unreachable.", "content": _UNREACHABLE},
    },
    openapi_extra=_LOCAL_OR_OPERATOR,
)
async def detailed(request: Request) -> Response:
    """Each dependency with its latency: 200 all healthy, 207 some degraded, 503 some unreachable. From this machine, or with `admin:orgs`."""
    await _require_local_or_operator(request)
    instance, probe = instance_of(request), _probe(request)
    status = probe.status()
    parked = int(_sample(instance, "agentidp_billing_events_parked"))
    lag_seconds = _sample(instance, "agentidp_webhook_lag_seconds")
    is_behind = parked > 0 or lag_seconds > limits.WEBHOOK_LAG_SECONDS_MAX
    services: dict[str, dict[str, Any]] = {"database": {"status": status, "latencyMs": probe.latency_ms, "version": instance.database.version()}}
    if isinstance(nats := instance.nats, Publisher):
        services["nats"] = {"status": nats.status, "latencyMs": nats.latency_ms, "version": nats.version}
    worst: Status = max((service["status"] for service in services.values()), key=_SEVERITY.index)
    body = {
        "status": "ok" if worst == "healthy" and not is_behind else "degraded",
        "version": __version__,
        "uptimeSeconds": probe.uptime_seconds,
        "services": services,
        "parkedBillingEvents": parked,
        "webhooks": {"lagSeconds": lag_seconds, "deadLetters": int(_sample(instance, "agentidp_webhook_dead_letters"))},
    }
    code = {"healthy": 207 if is_behind else 200, "degraded": 207, "unreachable": 503}[worst]
    return JsonResponse(body, code, headers={"Cache-Control": "no-store"})


@router.get(
    "/metrics",
    tags=["Metrics"],
    operation_id="getMetrics",
    response_class=Response,
    responses={
        **error_responses((*ALWAYS, Unauthenticated, Forbidden, TooManyRequests)),
        200: {"description": "The samples.", "content": {"text/plain": {"schema": {"type": "string"}}}},
    },
    openapi_extra=_LOCAL_OR_OPERATOR,
)
async def metrics(request: Request) -> Response:
    """Prometheus text format. From this machine, or with `admin:orgs`."""
    await _require_local_or_operator(request)
    instance = instance_of(request)
    instance.metrics.pool_active.set(instance.database.active())
    instance.metrics.pool_waiting.set(instance.database.waiting())
    return Response(generate_latest(instance.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})


def _sample(instance: Instance, name: str) -> float:
    return instance.metrics.registry.get_sample_value(name) or 0.0


async def _require_local_or_operator(request: Request) -> None:
    if not is_local(request):
        await authenticate(request, OPERATOR_SCOPE)


def _probe(request: Request) -> Probe:
    probe: Any = request.scope["agentidp.probe"]
    assert isinstance(probe, Probe)
    return probe
