"""What a plan allows is allowed to the last one, and not one more: on SQLite one server, on PostgreSQL two on one database. TH27, TH28."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.conftest import fresh_postgres_database
from tests.races.test_races import at_once, bearer, form
from tests.serving import RunningServer
from tests.tenants import Tenant, operator_of, registration
from tests.tiers.small_plans import AGENTS, CALLS, HALF_A_DAY, TOKENS, change, rejections, small_server, tenant_on, used

from agentidp.core.errors import TooManyCalls
from agentidp.ledger.entries import DAY_MS

Servers = list[RunningServer]


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[dict[str, Servers], contextlib.ExitStack]]:
    """The servers of this file by engine, and what has to be undone at its end."""
    with contextlib.ExitStack() as stack:
        yield {}, stack


@pytest.fixture
def servers_of(engine: str, running: tuple[dict[str, Servers], contextlib.ExitStack], folder: Path, request: pytest.FixtureRequest) -> Servers:
    found, stack = running
    if engine not in found:
        url = stack.enter_context(fresh_postgres_database(request.getfixturevalue("postgres"))) if engine == "postgresql" else None
        found[engine] = servers = [small_server(folder / f"plans-{engine}", url)]
        if url:
            servers.append(small_server(folder / f"plans-{engine}", url, issuer=servers[0].url))
        for server in servers:
            stack.callback(server.stop)
    return found[engine]


@pytest.fixture
def small(servers_of: Servers) -> RunningServer:
    return servers_of[0]


@pytest.fixture
def free(small: RunningServer) -> Tenant:
    return tenant_on(small, "free")


def statuses(answers: list[httpx2.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def require_used_up(answer: httpx2.Response) -> None:
    """429 until midnight; it is noon."""
    assert answer.status_code == 429, answer.text
    assert answer.json().get("code", answer.json().get("error")) in {"TIER_LIMIT_EXCEEDED", "slow_down"}
    assert HALF_A_DAY - 300 < int(answer.headers["retry-after"]) <= HALF_A_DAY + 1


@pytest.mark.parametrize(("to_midnight_ms", "seconds"), [(DAY_MS, 1), (DAY_MS - 999, 1), (DAY_MS - 1000, 86_400), (60_000, 61), (1, 2)])
def test_whoever_is_refused_at_midnight_does_not_wait_for_a_day(to_midnight_ms: int, seconds: int) -> None:
    assert TooManyCalls(DAY_MS * 20_000 - to_midnight_ms).headers == {"Retry-After": str(seconds)}


def test_the_calls_of_a_day_end_at_the_limit_and_begin_again_with_the_next(small: RunningServer, free: Tenant) -> None:
    before = rejections(small, "calls")
    with free.admin.client() as client:
        answers = [client.get("/api/v1/agents") for _ in range(CALLS + 3)]
        assert [answer.status_code for answer in answers] == [200] * CALLS + [429] * 3
        require_used_up(answers[-1])
        assert answers[-1].json()["code"] == "TIER_LIMIT_EXCEEDED"
        assert used(small, free.organization_id).calls == CALLS
        for path in ("/api/v1/token/introspect", "/api/v1/token/revoke"):
            require_used_up(client.post(path, data={"token": "x"}))
    with small.client() as client:  # as clients
        for path in ("/api/v1/token/introspect", "/api/v1/token/revoke"):
            require_used_up(client.post(path, data=form(free.admin, token="x")))
    assert used(small, free.organization_id).calls == CALLS
    assert rejections(small, "calls") == before + 7
    with small.clock.ahead(seconds=HALF_A_DAY), free.admin.client() as client:
        assert client.get("/api/v1/agents").status_code == 200
        assert used(small, free.organization_id).calls == 1


def test_the_tokens_of_a_day_end_at_the_limit(small: RunningServer, free: Tenant) -> None:
    before = rejections(small, "tokens")
    answers = [free.admin.token_response() for _ in range(TOKENS + 2)]
    assert [answer.status_code for answer in answers] == [200] * TOKENS + [429] * 2
    require_used_up(answers[-1])
    assert used(small, free.organization_id).tokens == TOKENS
    assert rejections(small, "tokens") == before + 2


def test_agents_end_at_the_limit_and_a_decommissioned_one_makes_room(small: RunningServer, free: Tenant) -> None:
    before = rejections(small, "agents")
    with free.admin.client() as client:
        made = [client.post("/api/v1/agents", json=registration()) for _ in range(AGENTS)]
        assert [answer.status_code for answer in made] == [201] * (AGENTS - 1) + [403]
        assert made[-1].json()["code"] == "TIER_LIMIT_EXCEEDED"
        assert made[-1].json()["details"] == {"limit": AGENTS, "used": AGENTS, "tier": "free"}
        path = f"/api/v1/agents/{made[0].json()['agentId']}"
        assert client.patch(path, json={"status": "suspended"}).status_code == 200
        assert client.post("/api/v1/agents", json=registration()).status_code == 403
        assert client.delete(path).status_code == 204
        assert client.post("/api/v1/agents", json=registration()).status_code == 201
    assert rejections(small, "agents") == before + 2


def test_calls_are_counted_once_whatever_comes_of_them(small: RunningServer) -> None:
    tenant, other = tenant_on(small, "enterprise"), tenant_on(small, "enterprise")
    plain, all_scopes, foreign = tenant.agent("openid"), tenant.admin.token(), other.admin.token()
    few = plain.token()
    agents, introspect, revoke = "/api/v1/agents", "/api/v1/token/introspect", "/api/v1/token/revoke"
    as_client = form(plain)
    calls: list[tuple[int, str, str, dict[str, Any]]] = [
        (200, "GET", agents, {"headers": bearer(all_scopes)}),
        (404, "GET", f"{agents}/{other.admin.agent_id}", {"headers": bearer(all_scopes)}),
        (400, "GET", f"{agents}?limit=0", {"headers": bearer(all_scopes)}),
        (400, "POST", agents, {"headers": bearer(all_scopes), "json": {}}),
        (415, "POST", agents, {"headers": bearer(all_scopes), "data": {"a": "b"}}),
        (403, "GET", agents, {"headers": bearer(few)}),
        (201, "POST", agents, {"headers": bearer(all_scopes), "json": registration()}),
        (403, "POST", introspect, {"headers": bearer(few), "data": {"token": few}}),
        *((200, "POST", introspect, {"headers": bearer(all_scopes), "data": {"token": token}}) for token in (few, foreign, "nonsense")),
        *((200, "POST", introspect, {"data": as_client | {"token": token}}) for token in (few, foreign, "nonsense")),
        *((200, "POST", revoke, {"headers": bearer(all_scopes), "data": {"token": token}}) for token in (foreign, "nonsense")),
        *((200, "POST", revoke, {"data": as_client | {"token": token}}) for token in (foreign, "nonsense")),
        (403, "POST", revoke, {"data": as_client | {"token": all_scopes}}),
        (200, "POST", revoke, {"headers": bearer(few), "data": {"token": few}}),
        (200, "GET", "/api/v1/tiers/status", {"headers": bearer(all_scopes)}),
    ]
    not_counted: list[tuple[int, str, str, dict[str, Any]]] = [
        (401, "GET", agents, {"headers": bearer(few)}),  # revoked by now
        (401, "GET", agents, {}),
        (401, "POST", introspect, {"data": as_client | {"token": "x", "client_secret": "wrong"}}),
        (200, "POST", "/api/v1/token", {"data": as_client}),
        (200, "GET", "/api/v1/tiers", {}),
    ]
    with small.client() as client:
        for expected, (status, method, path, options) in [(1, call) for call in calls] + [(0, call) for call in not_counted]:
            before = used(small, tenant.organization_id).calls
            answer = client.request(method, path, **options)
            assert answer.status_code == status, (method, path, answer.text)
            assert used(small, tenant.organization_id).calls - before == expected, (method, path, status)


def test_the_way_to_more_stays_open_and_the_operator_is_never_locked_out(small: RunningServer, free: Tenant) -> None:
    with free.admin.client() as client:
        for _ in range(CALLS):
            assert client.get("/api/v1/agents").status_code == 200
        status = client.get("/api/v1/tiers/status")
        assert status.status_code == 200
        assert status.json()["usage"]["callsToday"] == CALLS + 1
        require_used_up(client.get("/api/v1/agents"))
    operator = operator_of(small)
    try:
        change(small, operator.organization_id, plan_tier="free", max_tokens_per_day=used(small, operator.organization_id).tokens)
        require_used_up(operator.token_response("agents:read"))
        with operator.client("admin:orgs") as client:
            answers = [client.get("/api/v1/organizations") for _ in range(CALLS + 2)]
            assert statuses(answers) == {200: CALLS + 2}
            assert client.patch(f"/api/v1/organizations/{free.organization_id}", json={"planTier": "pro"}).status_code == 200
    finally:
        change(small, operator.organization_id, plan_tier="enterprise", max_tokens_per_day=None)


def test_an_organizations_own_limits_go_before_its_plans(small: RunningServer, free: Tenant) -> None:
    change(small, free.organization_id, max_agents=2, max_tokens_per_day=TOKENS + 2)
    answers = [free.admin.token_response() for _ in range(TOKENS + 3)]
    assert statuses(answers) == {200: TOKENS + 2, 429: 1}
    with small.client(headers=bearer(answers[0].json()["access_token"])) as client:
        assert [client.post("/api/v1/agents", json=registration()).status_code for _ in range(2)] == [201, 403]
        shown = client.get("/api/v1/tiers/status").json()
    assert shown["limits"] == {"maxAgents": 2, "maxCallsPerDay": CALLS, "maxTokensPerDay": TOKENS + 2, "requestsPerMinute": 1_000_000}
    assert shown["usage"] == {"agentCount": 2, "callsToday": 3, "tokensToday": TOKENS + 2}


def test_a_change_of_plan_applies_to_the_next_request_of_every_process(servers_of: Servers, free: Tenant) -> None:
    here, there = servers_of[0], servers_of[-1]
    token = free.admin.token()
    with there.client(headers=bearer(token)) as client:
        client.base_url = httpx2.URL(f"http://{there.settings.host}:{there.settings.port}")
        for _ in range(CALLS):
            assert client.get("/api/v1/agents").status_code == 200
        require_used_up(client.get("/api/v1/agents"))
        change(here, free.organization_id, plan_tier="pro")
        assert client.get("/api/v1/agents").status_code == 200
        change(here, free.organization_id, plan_tier="free")
        require_used_up(client.get("/api/v1/agents"))
        change(here, free.organization_id, plan_tier="enterprise")
        assert [client.get("/api/v1/agents").status_code for _ in range(3)] == [200] * 3
    assert used(here, free.organization_id).calls == CALLS + 4


def test_refusals_leave_one_event_a_minute_for_each_limit(small: RunningServer, free: Tenant) -> None:
    change(small, free.organization_id, max_agents=1)
    reader = free.admin.token()
    with free.admin.client() as client:
        for _ in range(CALLS + 5):
            client.post("/api/v1/agents", json=registration())
        for _ in range(TOKENS + 3):
            free.admin.token_response()
        change(small, free.organization_id, plan_tier="enterprise")
        with small.client(headers=bearer(reader)) as reading:
            assert Counter(denied(reading)) == {"agents": 1, "calls": 1, "tokens": 1}
            change(small, free.organization_id, plan_tier="free")
            with small.clock.ahead(seconds=61):
                for _ in range(3):
                    require_refused(client.get("/api/v1/agents"))
            change(small, free.organization_id, plan_tier="enterprise")
            assert Counter(denied(reading)) == {"agents": 1, "calls": 2, "tokens": 1}


def denied(client: httpx2.Client) -> list[str]:
    """Of which limit each refusal on record speaks."""
    found = client.get("/api/v1/audit", params={"action": "access.denied", "limit": 200}).json()["data"]
    return [next(limit for limit in ("agents", "calls", "tokens") if limit in event["metadata"]["reason"]) for event in found]


def require_refused(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (429, "TIER_LIMIT_EXCEEDED")


def test_a_clock_that_is_set_back_opens_no_second_window(small: RunningServer, free: Tenant) -> None:
    def ask(count: int) -> list[int]:
        return [free.admin.token_response().status_code for _ in range(count)]

    assert ask(15) == [200] * 15
    with small.clock.ahead(seconds=HALF_A_DAY):  # tomorrow
        assert ask(12) == [200] * 12
    assert ask(6) == [200] * 5 + [429]  # today again
    with small.clock.ahead(seconds=HALF_A_DAY):
        assert ask(9) == [200] * 8 + [429]
        assert used(small, free.organization_id).tokens == TOKENS
    assert used(small, free.organization_id).tokens == TOKENS


def test_the_last_place_of_the_plan_is_given_once(servers_of: Servers) -> None:
    pro, bodies = tenant_on(servers_of[0], "pro"), [registration() for _ in range(100)]
    token = pro.admin.token()
    for _ in range(2 * AGENTS - 2):
        pro.agent()
    answers = at_once(servers_of, 100, lambda client, number: client.post("/api/v1/agents", json=bodies[number], headers=bearer(token)))
    assert statuses(answers) == {201: 1, 403: 99}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 403} == {"TIER_LIMIT_EXCEEDED"}


def test_the_last_token_of_the_plan_is_given_once(servers_of: Servers, free: Tenant) -> None:
    for _ in range(TOKENS - 1):
        free.admin.token()
    answers = at_once(servers_of, 50, lambda client, _: client.post("/api/v1/token", data=form(free.admin)))
    assert statuses(answers) == {200: 1, 429: 49}
    assert used(servers_of[0], free.organization_id).tokens == TOKENS


def test_the_last_call_of_the_plan_is_given_once(servers_of: Servers, free: Tenant) -> None:
    token = free.admin.token()
    with servers_of[0].client(headers=bearer(token)) as client:
        for _ in range(CALLS - 1):
            assert client.get("/api/v1/agents").status_code == 200
    answers = at_once(servers_of, 50, lambda client, _: client.get("/api/v1/agents", headers=bearer(token)))
    assert statuses(answers) == {200: 1, 429: 49}
    assert used(servers_of[0], free.organization_id).calls == CALLS
