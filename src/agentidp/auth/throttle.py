"""The limits of `auth.rates` as requests meet them: before a proof is looked at, once a client is proven, and when a proof was wrong."""

from starlette.requests import Request
from starlette.types import Scope

from agentidp.auth.instance import instance_of
from agentidp.auth.rates import source_of
from agentidp.core.caller import AuditEntry
from agentidp.core.errors import TooManyRequests
from agentidp.core.gcra import Standing
from agentidp.ledger.entries import Snapshot

_STANDING, _PRESENTED = "agentidp.standing", "agentidp.presented"


class RateLimited(TooManyRequests):
    """Too many requests in a minute. `kind` (client, login, source) and `key` say whose."""

    def __init__(self, standing: Standing, *, kind: str, key: str, entry: AuditEntry, is_final: bool = True) -> None:
        super().__init__(headers={"Retry-After": str(standing.retry_seconds)}, audit=[entry])
        self.kind, self.key, self.is_final = kind, key, is_final


async def admit(request: Request, client: Snapshot) -> None:
    """Count a request of a proven client, once. Raises RateLimited."""
    instance = instance_of(request)
    rates = instance.rates
    cells = rates.clients[client.plan_tier]
    if cells is None:
        return
    standing: Standing | None = request.scope.get(_STANDING)
    if standing is None or standing.rate != cells.rate:  # else it is decided again, on a snapshot of the same plan
        if rates.is_alone:  # every request comes this way: nothing to wait for
            standing = cells.take(client.agent_id, instance.clock() * 1000)
        else:
            standing = await rates.take_client(client.organization_id, client.agent_id, cells)
        request.scope[_STANDING] = standing
    if not standing.is_allowed:
        agent = {"organization_id": client.organization_id, "agent_id": client.agent_id}
        entry = AuditEntry("access.denied", "failure", metadata={"reason": "rate limit", "perMinute": cells.rate.per_minute}, **agent)
        raise RateLimited(standing, kind="client", key=client.agent_id, entry=entry, is_final=not rates.is_worth_a_recheck(client.agent_id))


async def admit_source(request: Request) -> None:
    """Count a request that needs no proof. Raises RateLimited."""
    address = _address(request)
    standing = await instance_of(request).rates.take_source(address)
    if standing is not None and not standing.is_allowed:
        raise _source_limited(standing, "source", source_of(address), "rate limit of the source")


def present(request: Request, name: str, *, is_signed: bool = False) -> None:
    """Call it with what a request says it is, before its proof is looked at. Raises RateLimited when that has failed too often from there."""
    request.scope[_PRESENTED] = name
    standing = instance_of(request).rates.look_at_failures(name, _address(request), is_signed=is_signed)
    if standing is not None:
        raise _failed_too_often(request, standing)


async def count_failure(request: Request) -> RateLimited | None:
    """Count a wrong proof. Returns the refusal that takes the place of the request's own when it is one too many."""
    standing = await instance_of(request).rates.count_failure(request.scope.get(_PRESENTED), _address(request))
    return _failed_too_often(request, standing) if standing is not None else None


def rate_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """What an answer tells a proven client, in GitHub's names: the reset is an instant, in seconds since the epoch."""
    standing: Standing | None = scope.get(_STANDING)
    if standing is None:
        return []
    return [
        (b"x-ratelimit-limit", b"%d" % standing.rate.per_minute),
        (b"x-ratelimit-remaining", b"%d" % standing.remaining),
        (b"x-ratelimit-reset", b"%d" % standing.reset_at),
    ]


def _failed_too_often(request: Request, standing: Standing) -> RateLimited:
    return _source_limited(standing, "login", source_of(_address(request)), "too many failures")


def _source_limited(standing: Standing, kind: str, key: str, reason: str) -> RateLimited:
    return RateLimited(standing, kind=kind, key=key, entry=AuditEntry("auth.failed", "failure", metadata={"reason": reason}))


def _address(request: Request) -> str | None:
    address: str | None = request.scope["agentidp.origin"].ip_address
    return address
