"""Every operation × every kind of caller: status, body, side effects on both tenants, and what is left on record.

The expected answers are derived from what each route declares (`declared`); an operation that appears is covered the same day.
"""

import httpx2
import pytest
from tests.matrices.declared import GUARDED, OF_THE_OPERATOR, OPEN, OPERATIONS, WITH_CLIENT, Operation
from tests.matrices.world import World, unknown_target
from tests.serving import RunningServer

from agentidp.auth.guard import ANY_TOKEN
from agentidp.db.schema import credentials

_VARYING = {"x-request-id", "date", "etag", "x-ratelimit-remaining", "x-ratelimit-reset"}

# caller -> (actor, which token: "needed" scope, all "but" it, "all"; None: no token at all)
CALLERS = {
    "no token": (None, None),
    "no scope": ("agent", "but"),
    "right scope": ("agent", "needed"),
    "other agent of the tenant": ("sibling", "all"),
    "other tenant": ("stranger", "needed"),
    "other tenant's administrator": ("foreign administrator", "all"),
    "suspended": ("suspended", "needed"),
    "decommissioned": ("decommissioned", "needed"),
}
GUARDED_CASES = [pytest.param(one, caller, id=f"{one}-{caller}") for one in GUARDED for caller in CALLERS]


@pytest.fixture
def world(server: RunningServer, worlds: dict[str, World]) -> World:
    if server.url not in worlds:
        worlds[server.url] = World(server)
    return worlds[server.url]


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    return {}


def token_for(world: World, operation: Operation, caller: str) -> str | None:
    actor, which = CALLERS[caller]
    if actor is None:
        return None
    if operation.administrators and actor == "agent":
        actor = "administrator"
    scope = {"needed": operation.needed, "but": f"-{operation.needed}", "all": None}[which or ""] if operation.needed else None
    if actor in {"suspended", "decommissioned"} and scope is None:
        scope = "openid"
    return world.token(actor, scope)


def expected(operation: Operation, caller: str) -> tuple[int, str | None]:
    """Status and code. What belongs to nobody else (no path parameter) is found by every tenant: its own."""
    if caller in {"no token", "suspended", "decommissioned"}:
        return 401, "UNAUTHORIZED"
    if caller == "no scope" and operation.needed:
        return 403, "FORBIDDEN"
    if operation.administrators and caller in {"other agent of the tenant", "other tenant"}:
        return 403, "FORBIDDEN"
    if caller in {"other tenant", "other tenant's administrator"} and operation.parameters:
        return 404, operation.not_found(operation.parameters[0])
    return operation.success, None


@pytest.mark.parametrize(("operation", "caller"), GUARDED_CASES)
def test_guarded_operation(world: World, operation: Operation, caller: str) -> None:
    assert operation.needed or not operation.parameters, "an operation for any token must say which scope another's needs: secured(…, otherwise=…)"
    target, token = world.target(), token_for(world, operation, caller)
    home, away = world.snapshot(world.home), world.snapshot(world.away)
    response = world.request(operation, target, token)
    status, code = expected(operation, caller)
    assert response.status_code == status, response.text
    if code:
        assert response.json()["code"] == code
    _require_side_effects(world, caller, status, (home, away))
    _require_record(world, response, caller, status)
    if status == 404:
        _require_no_difference(response, world.request(operation, unknown_target(), token))
    if caller.startswith("other tenant") and status < 400:
        assert world.home.organization_id not in response.text
        assert not [value for value in target.values() if value in response.text]


def _require_side_effects(world: World, caller: str, status: int, before: tuple[dict, dict]) -> None:
    """A refusal changes nothing anywhere; a success changes the caller's tenant only."""
    home, away = world.snapshot(world.home), world.snapshot(world.away)
    if status >= 400 or caller.startswith("other tenant"):
        assert home == before[0], "the tenant's rows changed"
    if status >= 400 or not caller.startswith("other tenant"):
        assert away == before[1], "the other tenant's rows changed"


def _require_record(world: World, response: httpx2.Response, caller: str, status: int) -> None:
    """401 and 403 are on record where they belong; nothing is ever written into a tenant that is not the caller's."""
    events = world.events(response.headers["x-request-id"])
    home, away, operator = world.home.organization_id, world.away.organization_id, world.server.instance.operator_organization_id
    if caller == "no token":
        assert events == [(operator, "auth.failed", "failure")]
    elif status == 401:
        assert events == [(home, "auth.failed", "failure")]
    elif status == 403:
        assert events == [(away if caller == "other tenant" else home, "access.denied", "failure")]
    elif status == 404:
        assert events == []
    else:
        mine = away if caller.startswith("other tenant") else home
        assert {(organization, outcome) for organization, _, outcome in events} <= {(mine, "success")}


def _require_no_difference(foreign: httpx2.Response, unknown: httpx2.Response) -> None:
    """Another tenant's object and one that never was are told apart by nothing."""
    assert (foreign.status_code, foreign.content) == (unknown.status_code, unknown.content)
    seen = [{name: value for name, value in one.headers.items() if name not in _VARYING} for one in (foreign, unknown)]
    assert seen[0] == seen[1]


@pytest.mark.parametrize("operation", [one for one in GUARDED if len(one.parameters) > 1], ids=str)
def test_foreign_inner_id_reads_like_an_unknown_one(world: World, operation: Operation) -> None:
    """One's own outer object and somebody else's inner one, of the other tenant and of the same."""
    token, admin = world.token("foreign administrator", None), world.actors["foreign administrator"]
    outer, inner = operation.parameters[:2]
    own = {outer: {"agentId": admin.agent_id, "webhookId": world.webhook_of_away()}[outer]}
    foreign = world.request(operation, own | {inner: world.target()[inner]}, token)
    assert (foreign.status_code, foreign.json()["code"]) == (404, operation.not_found(inner))
    unknown = world.request(operation, own | {inner: unknown_target()[inner]}, token)
    _require_no_difference(foreign, unknown)
    sibling, other = world.target(), world.target()
    mixed = world.request(operation, {outer: sibling[outer], inner: other[inner]}, world.token("agent", None))
    _require_no_difference(mixed, unknown)


@pytest.mark.parametrize("operation", [one for one in GUARDED if one.scope == ANY_TOKEN and one.parameters], ids=str)
def test_the_agent_itself_needs_no_scope(world: World, operation: Operation) -> None:
    agent = world.home.agent("openid")
    (credential,) = world.rows_of(credentials, agent, "credential_id")
    response = world.request(operation, {"agentId": agent.agent_id, "credentialId": credential}, agent.token())
    assert response.status_code == operation.success, response.text


@pytest.mark.parametrize("operation", OPEN, ids=str)
def test_public_operation_answers_everybody_alike(world: World, operation: Operation) -> None:
    path = dict.fromkeys(operation.parameters, "start.js")
    tokens = [None, "not.a.token", world.token("agent", None), world.token("foreign administrator", None), world.tokens["suspended", "openid"]]
    before = world.snapshot(world.home), world.snapshot(world.away)
    answers = [world.request(operation, path, token) for token in tokens]
    nobody_trusts = operation.path == "/api/v1/oidc/token"  # the issuer of the sample
    assert {answer.status_code for answer in answers} == {401 if nobody_trusts else operation.success}
    if operation.path not in {"/health", "/health/detailed", "/metrics"}:  # they tell the time
        assert len({answer.content for answer in answers}) == 1
    for tenant in (world.home, world.away):
        assert not [answer for answer in answers if tenant.organization_id in answer.text]
    assert (world.snapshot(world.home), world.snapshot(world.away)) == before


@pytest.mark.parametrize("operation", [one for one in OPEN if one.otherwise], ids=str)
@pytest.mark.parametrize("caller", CALLERS)
def test_local_operation_from_elsewhere(world: World, operation: Operation, caller: str) -> None:
    """Through a proxy even an administrator of a tenant is a stranger; see `test_states` for the operator."""
    actor, _ = CALLERS[caller]
    token = world.tokens[actor, "openid"] if actor in {"suspended", "decommissioned"} else world.token(actor, None) if actor else None
    response = world.request(operation, {}, token, headers={"X-Forwarded-For": "203.0.113.9"})
    refused = (401, "UNAUTHORIZED") if actor in {None, "suspended", "decommissioned"} else (403, "FORBIDDEN")
    assert (response.status_code, response.json()["code"]) == refused
    assert [event[1:] for event in world.events(response.headers["x-request-id"])] == [("auth.failed" if refused[0] == 401 else "access.denied", "failure")]


@pytest.mark.parametrize("operation", [one for one in WITH_CLIENT if one.otherwise], ids=str)
@pytest.mark.parametrize("caller", CALLERS)
def test_oauth_operation_by_bearer(world: World, operation: Operation, caller: str) -> None:
    """The token of another agent of the home tenant, presented by everybody. A stranger learns and changes nothing, and sees an unknown token alike."""
    victim = world.home.agent("openid")
    presented, token = victim.token(), token_for(world, operation, caller)
    before = world.snapshot(world.home), world.snapshot(world.away)
    response = world.request(operation, {}, token, data={"token": presented})
    refused = {"no token": 401, "suspended": 401, "decommissioned": 401, "no scope": 403}
    assert response.status_code == refused.get(caller, 200), response.text
    changed = operation.path.endswith("/revoke") and caller in {"right scope", "other agent of the tenant"}
    assert (world.snapshot(world.home) != before[0]) == changed
    assert world.snapshot(world.away) == before[1]
    if caller.startswith("other tenant"):
        _require_no_difference(response, world.request(operation, {}, token, data={"token": presented[:-8] + "A" * 8}))
    events = world.events(response.headers["x-request-id"])
    if caller in refused:
        owner = world.server.instance.operator_organization_id if caller == "no token" else world.home.organization_id
        assert events == [(owner, "access.denied" if caller == "no scope" else "auth.failed", "failure")]
    else:
        mine = (world.away if caller.startswith("other tenant") else world.home).organization_id
        assert {event[0] for event in events} <= {mine}


def test_every_operation_is_in_one_matrix() -> None:
    """Whatever is served is guarded, public, an OAuth endpoint or in `test_organizations`, and says what its path parameters mean."""
    assert sorted(map(str, (*GUARDED, *OF_THE_OPERATOR, *OPEN, *WITH_CLIENT))) == sorted(map(str, OPERATIONS))
    assert {str(one) for one in WITH_CLIENT} == {"POST /api/v1/token", "POST /api/v1/token/introspect", "POST /api/v1/token/revoke"}
    for operation in GUARDED:
        assert {401, 403} <= operation.codes.keys(), operation
        assert all(operation.not_found(parameter) for parameter in operation.parameters), operation
        assert set(operation.parameters) <= unknown_target().keys(), f"{operation}: World.target must make one"
