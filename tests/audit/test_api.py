"""Reading /audit over real HTTP on both engines: list, filters, dates, pages, one event."""

from typing import Any

import pytest
from tests.serving import RunningServer
from tests.tenants import Tenant, registration

from agentidp.core.clock import from_rfc3339, to_rfc3339

AUDIT = "/api/v1/audit"
FIELDS = {
    *("eventId", "seq", "organizationId", "agentId", "action", "outcome", "targetType", "targetId", "ipAddress"),
    *("userAgent", "requestId", "metadata", "timestamp", "previousHash", "hash"),
}


def events(tenant: Tenant, **parameters: Any) -> list[dict[str, Any]]:
    with tenant.admin.client("audit:read") as client:
        response = client.get(AUDIT, params={"limit": 200, **parameters})
    assert response.status_code == 200, response.text
    return list(response.json()["data"])


def test_an_event_says_who_did_what_from_where(tenant: Tenant) -> None:
    with tenant.admin.client() as client:
        headers = {"X-Request-Id": "my-request.1", "User-Agent": "tests/1.0 \u202eevil".encode().decode("latin-1")}
        agent = client.post("/api/v1/agents", json=registration(), headers={name: value.encode("latin-1") for name, value in headers.items()}).json()
        (event,) = client.get(AUDIT, params={"requestId": "my-request.1"}).json()["data"]
        alone = client.get(f"{AUDIT}/{event['eventId']}").json()
    assert alone == event | {name: alone[name] for name in ("seq", "previousHash", "hash")}  # it may have been sealed between the two
    assert event.keys() == FIELDS
    assert (event["action"], event["outcome"], event["targetType"], event["targetId"]) == ("agent.created", "success", "agent", agent["agentId"])
    assert (event["agentId"], event["organizationId"], event["ipAddress"]) == (tenant.admin.agent_id, tenant.organization_id, "127.0.0.1")
    assert event["userAgent"].startswith("tests/1.0 ")
    assert event["userAgent"].isprintable()
    assert event["metadata"]["email"] == agent["email"]


def test_filters(tenant: Tenant, server: RunningServer) -> None:
    agent = tenant.agent("agents:read")
    agent.token_response("agents:write")
    agent.token()
    everything = events(tenant)
    wanted: list[tuple[dict[str, str], Any]] = [
        ({"agentId": agent.agent_id}, lambda event: event["agentId"] == agent.agent_id),
        ({"action": "token.issued"}, lambda event: event["action"] == "token.issued"),
        ({"outcome": "failure"}, lambda event: event["outcome"] == "failure"),
        ({"targetId": agent.agent_id}, lambda event: event["targetId"] == agent.agent_id),
        ({"agentId": agent.agent_id, "outcome": "success"}, lambda event: (event["agentId"], event["outcome"]) == (agent.agent_id, "success")),
        ({"action": "no.such"}, lambda _: False),
        ({"agentId": "0198c5a2-7d1e-7c3a-9f00-5b1d2e3f4a5b"}, lambda _: False),
    ]
    known = {event["eventId"] for event in everything}
    for parameters, matches in wanted:
        found = [event["eventId"] for event in events(tenant, **parameters) if event["eventId"] in known]
        assert found == [event["eventId"] for event in everything if matches(event)], parameters
    assert events(tenant, action="token.issued", agentId=agent.agent_id)


def test_dates_are_inclusive_on_both_ends(tenant: Tenant) -> None:
    tenant.agent()
    everything = events(tenant)
    instants = sorted({event["timestamp"] for event in everything})
    first, last = instants[0], instants[-1]
    known = {event["eventId"] for event in everything}

    def found(**parameters: str) -> set[str]:
        return {event["eventId"] for event in events(tenant, **parameters)} & known

    assert found(fromDate=first, toDate=last) == known
    assert found(fromDate=first, toDate=first) == {event["eventId"] for event in everything if event["timestamp"] == first}
    assert found(toDate=to_rfc3339(from_rfc3339(first) - 1)) == set()
    assert found(fromDate=to_rfc3339(from_rfc3339(last) + 1)) == set()
    assert found(fromDate=f"{first.removesuffix('Z')}+00:00", toDate="9999-12-31T23:59:59Z") == known


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"fromDate": "2026-01-02T00:00:00Z", "toDate": "2026-01-01T00:00:00Z"}, "INVALID_DATE_RANGE"),
        ({"fromDate": "2026-01-02"}, "VALIDATION_ERROR"),
        ({"fromDate": "2026-02-30T00:00:00Z"}, "VALIDATION_ERROR"),
        ({"toDate": "yesterday"}, "VALIDATION_ERROR"),
        ({"outcome": "maybe"}, "VALIDATION_ERROR"),
        ({"agentId": "me"}, "VALIDATION_ERROR"),
        ({"limit": "201"}, "VALIDATION_ERROR"),
        ({"limit": "200", "page": "51"}, "VALIDATION_ERROR"),
        ({"actions": "x"}, "VALIDATION_ERROR"),
    ],
    ids=str,
)
def test_refuses_wrong_parameters(tenant: Tenant, parameters: dict[str, str], code: str) -> None:
    with tenant.admin.client("audit:read") as client:
        refused = client.get(AUDIT, params=parameters)
    assert (refused.status_code, refused.json()["code"]) == (400, code)


def test_pages(tenant: Tenant, server: RunningServer) -> None:
    agent = tenant.agent()
    for _ in range(5):
        agent.token()
    with tenant.admin.client("audit:read") as client:
        assert client.get(AUDIT).json()["limit"] == 50
        parameters = {"agentId": agent.agent_id, "action": "token.issued"}
        whole = [event["eventId"] for event in client.get(AUDIT, params=parameters).json()["data"]]
        assert (len(whole), whole) == (5, sorted(whole, reverse=True))
        seen, page = [], client.get(AUDIT, params=parameters | {"limit": 2}).json()
        assert (page["total"], page["page"]) == (5, 1)
        while True:
            seen += [event["eventId"] for event in page["data"]]
            if not page["nextCursor"]:
                break
            page = client.get(AUDIT, params=parameters | {"limit": 2, "cursor": page["nextCursor"]}).json()
        assert seen == whole


def test_another_tenants_events_do_not_exist(tenant: Tenant, other_tenant: Tenant) -> None:
    foreign = events(other_tenant)
    assert not {event["eventId"] for event in foreign} & {event["eventId"] for event in events(tenant)}
    assert {event["organizationId"] for event in foreign} == {other_tenant.organization_id}
    assert events(tenant, targetId=other_tenant.admin.agent_id) == []
    with tenant.admin.client("audit:read") as client:
        for event_id in (foreign[0]["eventId"], "0198c5a2-7d1e-7c3a-9f00-5b1d2e3f4a5b", "x", foreign[0]["eventId"].upper()):
            missing = client.get(f"{AUDIT}/{event_id}")
            assert (missing.status_code, missing.json()["code"]) == (404, "AUDIT_EVENT_NOT_FOUND")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_history_is_read_only(tenant: Tenant, method: str) -> None:
    event_id = events(tenant)[0]["eventId"]
    with tenant.admin.client() as client:
        for path in (AUDIT, f"{AUDIT}/{event_id}"):
            assert client.request(method, path).status_code == 405
