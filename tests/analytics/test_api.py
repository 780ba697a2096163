"""/analytics over real HTTP on both engines."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from tests.serving import RunningServer, settings_for
from tests.tenants import Tenant, TestAgent, make_administrator, operator_of

from agentidp.core.caller import SYSTEM
from agentidp.core.clock import to_rfc3339
from agentidp.db.schema import agent_activity, hourly_tokens, usage_counters
from agentidp.db.unit import Tx
from agentidp.ledger.entries import DAY_MS

ANALYTICS = "/api/v1/analytics"
PATHS = ("/tokens", "/agents/activity", "/agents", "/usage-summary")
WITH_DAYS = PATHS[:3]


def get(agent: TestAgent, path: str, scope: str | None = "analytics:read", **query: object) -> httpx2.Response:
    with agent.client(scope) as client:
        return client.get(f"{ANALYTICS}{path}", params=query)


def seen(agent: TestAgent, path: str, **query: object) -> Any:
    response = get(agent, path, **query)
    assert response.status_code == 200, response.text
    return response.json()


def until(look: Callable[[], Any], wanted: Any) -> None:
    """Sealing takes a moment."""
    deadline = time.monotonic() + 10
    while (found := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found == wanted


def date_of(day: int) -> str:
    return to_rfc3339(day * DAY_MS)[:10]


def put(tenant: Tenant, table: sa.Table, *rows: dict[str, Any]) -> None:
    """Rows of counters as the ledger leaves them."""

    def insert(tx: Tx) -> None:
        tx.run(sa.insert(table).values([{"organization_id": tenant.organization_id} | row for row in rows]))

    tenant.server.write(insert, SYSTEM)


def test_what_happens_is_shown_where_it_belongs(tenant: Tenant) -> None:
    """Asking costs a token and a call, too: the reader is another agent than the one that is looked at."""
    watched, reader = tenant.agent(), tenant.admin
    for _ in range(4):
        token = watched.token()
    with tenant.server.client(headers={"Authorization": f"Bearer {token}"}) as client:
        calls = [client.get("/api/v1/agents").status_code for _ in range(3)]
    assert calls == [200] * 3
    now = tenant.server.clock()

    def usage() -> Any:
        rows = {row["agentId"]: row for row in seen(reader, "/agents", days=1)["data"]}
        assert set(rows) == {watched.agent_id, reader.agent_id}
        return rows[watched.agent_id]["tokensIssued"], rows[watched.agent_id]["apiCalls"]

    until(usage, (4, 3))
    (row,) = [row for row in seen(reader, "/agents")["data"] if row["agentId"] == watched.agent_id]
    assert to_rfc3339(now - 60_000) < row["lastSeenAt"] <= to_rfc3339(tenant.server.clock())
    daily = seen(reader, "/tokens")
    total = daily["data"][-1]["count"]
    assert total > 4
    until(lambda: sum(cell["count"] for cell in seen(reader, "/agents/activity")["data"]) > total, True)
    summary = seen(reader, "/usage-summary")
    assert summary["tokensIssued"]["total"] > total
    assert summary["apiCalls"]["total"] > 3
    assert summary["apiCalls"]["peakDay"]["count"] == summary["apiCalls"]["total"]


@pytest.mark.parametrize("days", [1, 2, 7, 30, 90])
def test_days_without_a_token_are_zero_and_the_oldest_comes_first(tenant: Tenant, days: int) -> None:
    today = tenant.server.clock() // DAY_MS
    shown = seen(tenant.admin, "/tokens", days=days)
    if tenant.server.clock() // DAY_MS != today:  # midnight passed
        today, shown = today + 1, seen(tenant.admin, "/tokens", days=days)
    assert (shown["organizationId"], shown["days"]) == (tenant.organization_id, days)
    assert [row["date"] for row in shown["data"]] == [date_of(day) for day in range(today - days + 1, today + 1)]
    assert [row["count"] for row in shown["data"][:-1]] == [0] * (days - 1)
    assert shown["data"][-1]["count"] >= 1


def test_the_first_and_the_last_day_are_in_and_the_one_before_is_not(tenant: Tenant) -> None:
    today = tenant.server.clock() // DAY_MS
    put(tenant, usage_counters, *({"day": today - back, "meter": "tokensIssued", "count": 100 + back} for back in (1, 6, 7)))
    put(tenant, hourly_tokens, *({"day": today - back, "hour": 23, "count": 1000} for back in (1, 6, 7)))
    agent = tenant.agent()
    common = {"agent_id": agent.agent_id, "meter": "apiCalls"}
    put(tenant, agent_activity, *({**common, "day": today - back, "count": 10**back, "last_seen_at": (today - back) * DAY_MS + 5} for back in (1, 6, 7)))
    assert [row["count"] for row in seen(tenant.admin, "/tokens", days=7)["data"]][:-1] == [106, 0, 0, 0, 0, 101]
    assert [row["count"] for row in seen(tenant.admin, "/tokens", days=8)["data"]][:2] == [107, 106]
    cells = [cell for cell in seen(tenant.admin, "/agents/activity", days=7)["data"] if cell["count"] >= 1000]
    assert [(cell["dayOfWeek"], cell["hour"], cell["count"]) for cell in cells] == [
        (day, 23, 1000) for day in sorted(((today - back + 4) % 7) for back in (1, 6))
    ]
    (row,) = [row for row in seen(tenant.admin, "/agents", days=7)["data"] if row["agentId"] == agent.agent_id]
    assert row == {
        "agentId": agent.agent_id,
        "name": row["name"],
        "tokensIssued": 0,
        "apiCalls": 1_000_010,
        "lastSeenAt": to_rfc3339((today - 1) * DAY_MS + 5),
    }


def test_all_168_cells_are_there_in_order(tenant: Tenant) -> None:
    cells = seen(tenant.admin, "/agents/activity", days=90)["data"]
    assert [(cell["dayOfWeek"], cell["hour"]) for cell in cells] == [(day, hour) for day in range(7) for hour in range(24)]


def test_agents_are_listed_as_everywhere_those_that_did_nothing_included(tenant: Tenant) -> None:
    idle = tenant.agent(name="Idle")
    gone = tenant.agent()
    with tenant.admin.client() as client:
        assert client.delete(f"/api/v1/agents/{gone.agent_id}").status_code == 204
    first = seen(tenant.admin, "/agents", limit=2)
    assert [row["agentId"] for row in first["data"]] == [gone.agent_id, idle.agent_id]
    assert (first["page"], first["limit"], first["total"], first["days"]) == (1, 2, 3, 30)
    assert first["data"][1] == {"agentId": idle.agent_id, "name": "Idle", "tokensIssued": 0, "apiCalls": 0, "lastSeenAt": None}
    second = seen(tenant.admin, "/agents", limit=2, cursor=first["nextCursor"])
    assert [row["agentId"] for row in second["data"]] == [tenant.admin.agent_id]
    assert second["nextCursor"] is None


def test_totals_average_and_peak_of_a_range(tenant: Tenant) -> None:
    rows = {("tokensIssued", 10): 4, ("tokensIssued", 12): 9, ("tokensIssued", 13): 9, ("apiCalls", 11): 1, ("agentsRegistered", 11): 77}
    put(tenant, usage_counters, *({"day": day, "meter": meter, "count": count} for (meter, day), count in rows.items()))
    shown = seen(tenant.admin, "/usage-summary", **{"from": "1970-01-11", "to": "1970-01-14"})
    assert shown == {
        "organizationId": tenant.organization_id,
        "from": "1970-01-11",
        "to": "1970-01-14",
        "tokensIssued": {"total": 22, "dailyAverage": 5.5, "peakDay": {"date": "1970-01-13", "count": 9}},
        "apiCalls": {"total": 1, "dailyAverage": 0.25, "peakDay": {"date": "1970-01-12", "count": 1}},
    }
    one = seen(tenant.admin, "/usage-summary", **{"from": "1970-01-12", "to": "1970-01-12"})
    assert (one["tokensIssued"], one["apiCalls"]["total"]) == ({"total": 0, "dailyAverage": 0.0, "peakDay": None}, 1)


@pytest.mark.parametrize(
    ("first", "last"), [("0001-01-01", "0001-12-31"), ("1066-10-14", "1066-10-14"), ("9999-01-01", "9999-12-31"), ("2024-02-29", "2025-02-28")]
)
def test_where_nothing_was_counted_there_is_nothing(tenant: Tenant, first: str, last: str) -> None:
    shown = seen(tenant.admin, "/usage-summary", **{"from": first, "to": last})
    assert (shown["from"], shown["to"], shown["tokensIssued"]) == (first, last, {"total": 0, "dailyAverage": 0.0, "peakDay": None})


@pytest.mark.parametrize(
    "query",
    [
        {"from": "2026-02-02", "to": "2026-02-01"},
        {"from": "9999-12-31"},
        {"to": "1969-12-31"},
        {"from": "2025-01-01", "to": "2026-01-02"},
        {"from": "0001-01-01"},
        {"from": "0001-01-01", "to": "9999-12-31"},
    ],
)
def test_a_range_that_is_none_or_too_long_is_refused(tenant: Tenant, query: dict[str, str]) -> None:
    response = get(tenant.admin, "/usage-summary", **query)
    assert (response.status_code, response.json()["code"]) == (400, "INVALID_DATE_RANGE")


@pytest.mark.parametrize("name", ["from", "to"])
@pytest.mark.parametrize(
    "value", ["", "2026-02-30", "2026-1-1", "20260101", "2026-W01-1", "2026-01-01T00:00:00Z", "0000-01-01", "10000-01-01", "٢٠٢٦-٠١-٠١", "1"]
)
def test_what_is_no_date_is_refused(tenant: Tenant, name: str, value: str) -> None:
    response = get(tenant.admin, "/usage-summary", **{name: value})
    assert (response.status_code, response.json()["code"]) == (400, "VALIDATION_ERROR")
    assert [row["field"] for row in response.json()["details"]["fields"]] == [name]


@pytest.mark.parametrize("path", WITH_DAYS)
@pytest.mark.parametrize("days", ["0", "91", "-1", "", "x", "1.5", "1e1", "+7", "٧", "9" * 30])
def test_days_out_of_range_are_refused(tenant: Tenant, path: str, days: str) -> None:
    response = get(tenant.admin, path, days=days)
    assert (response.status_code, response.json()["code"]) == (400, "VALIDATION_ERROR")
    assert [row["field"] for row in response.json()["details"]["fields"]] == ["days"]


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_parameter_is_refused(tenant: Tenant, path: str) -> None:
    wrong = "days" if path == "/usage-summary" else "from"
    response = get(tenant.admin, path, **{wrong: "1"})
    assert [row["field"] for row in response.json()["details"]["fields"]] == [wrong]


@pytest.mark.parametrize("path", PATHS)
def test_an_administrator_needs_no_scope_and_anybody_else_does(tenant: Tenant, path: str) -> None:
    agent = tenant.agent("openid", "audit:read")
    assert get(agent, path, "openid").status_code == 403
    make_administrator(agent, "member")
    assert get(agent, path, None).status_code == 403
    administrator = tenant.agent("openid")
    make_administrator(administrator)
    assert get(administrator, path, "openid").status_code == 200
    refused = get(agent, path, None)
    assert refused.json()["code"] == "FORBIDDEN"
    assert 'scope="analytics:read"' in refused.headers["www-authenticate"]
    operator = operator_of(tenant.server)
    assert get(operator, path, "analytics:read").json()["organizationId"] == operator.organization_id


def test_each_tenant_sees_its_own(tenant: Tenant, other_tenant: Tenant) -> None:
    day = {"day": 20, "count": 5}
    put(tenant, usage_counters, {**day, "meter": "tokensIssued"}, {**day, "meter": "apiCalls"})
    today = tenant.server.clock() // DAY_MS
    put(tenant, hourly_tokens, {"day": today, "hour": 0, "count": 10**6})
    put(tenant, agent_activity, {"agent_id": tenant.admin.agent_id, "day": today, "meter": "x", "count": 10**6, "last_seen_at": 1})
    dates = {"from": "1970-01-01", "to": "1970-02-01"}
    assert seen(tenant.admin, "/usage-summary", **dates)["tokensIssued"]["total"] == 5
    assert seen(other_tenant.admin, "/usage-summary", **dates)["tokensIssued"]["total"] == 0
    assert max(cell["count"] for cell in seen(other_tenant.admin, "/agents/activity")["data"]) < 10**6
    assert [row["agentId"] for row in seen(other_tenant.admin, "/agents")["data"]] == [other_tenant.admin.agent_id]


def test_what_is_switched_off_is_not_there(tmp_path: Path) -> None:
    """Like a path that never was: for everybody, by every method, and in the document."""
    running = RunningServer(settings_for(tmp_path, None, features={"analytics": False}))
    try:
        operator = operator_of(running)
        for path in PATHS:
            assert get(operator, path).json()["code"] == "NOT_FOUND"
            with running.client() as stranger:
                assert [stranger.request(method, f"{ANALYTICS}{path}").status_code for method in ("GET", "POST")] == [404, 404]
        assert not [path for path in running.check.document["paths"] if path.startswith(ANALYTICS)]
        with operator.client() as client:
            assert client.get("/api/v1/agents").status_code == 200
    finally:
        running.stop()
