"""/audit/verify, /audit/checkpoint and /audit/export over real HTTP on both engines, and that what they give is what an auditor can check."""

import json
import socket
import time
from typing import Any

import pytest
from tests.serving import RunningServer
from tests.tenants import Tenant, make_tenant

from agentidp.audit.exports import check_export
from agentidp.core import limits
from agentidp.core.clock import from_rfc3339
from agentidp.ledger.checkpoint import open_note, parse_note, parse_verifier_key

AUDIT = "/api/v1/audit"


def get(tenant: Tenant, path: str, **parameters: Any) -> Any:
    with tenant.admin.client("audit:read") as client:
        response = client.get(f"{AUDIT}/{path}", params=parameters)
    assert response.status_code == 200, response.text
    return response


def sealed(tenant: Tenant) -> int:
    """The size of the chain once everything that has happened so far is in it."""
    deadline = time.monotonic() + 10
    with tenant.admin.client("audit:read") as client:
        while any(event["seq"] is None for event in client.get(AUDIT, params={"limit": 200}).json()["data"]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return int(client.get(AUDIT, params={"limit": 1}).json()["data"][0]["seq"])


def test_a_history_is_verified_against_its_checkpoints(tenant: Tenant) -> None:
    size = sealed(tenant)
    assert get(tenant, "checkpoint").json()["size"] >= size
    found = get(tenant, "verify").json()
    assert found["verified"] is True
    assert (found["fromSeq"], found["reason"], found["brokenAtEventId"], found["brokenAtSeq"]) == (1, None, None, None)
    assert found["checkedCount"] == found["toSeq"] >= size
    assert found["checkpoint"]["size"] >= size
    assert (found["fromDate"], found["toDate"]) == (None, None)


def test_a_checkpoint_is_signed_and_stays_until_something_happens(tenant: Tenant, other_tenant: Tenant) -> None:
    first = get(tenant, "checkpoint").json()
    assert open_note(first["note"], parse_verifier_key(first["verifierKey"])).head == first["hash"]
    assert first["origin"] == f"{tenant.server.url.partition('://')[2]}/organizations/{tenant.organization_id}"
    tenant.agent()
    size = sealed(tenant)
    later = get(tenant, "checkpoint").json()
    assert later["size"] >= size > first["size"]
    assert later["verifierKey"] == first["verifierKey"] != get(other_tenant, "checkpoint").json()["verifierKey"]


def test_an_export_is_checked_without_the_server(tenant: Tenant) -> None:
    kept = get(tenant, "checkpoint").json()
    tenant.agent()
    size = sealed(tenant)
    response = get(tenant, "export")
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = response.content.splitlines(keepends=True)
    found = check_export(lines, key=parse_verifier_key(kept["verifierKey"]), kept=[kept["note"]])
    assert (found.organization_id, found.from_seq, found.broken) == (tenant.organization_id, 1, None)
    assert found.to_seq == len(lines) - 1 >= size
    listed = {event["eventId"]: event for event in _all(tenant) if event["seq"] is not None}
    for line in lines[:-1]:
        event = json.loads(line)
        assert event.pop("v") == "agentidp-audit-1"
        assert listed[event["eventId"]] == event


def _all(tenant: Tenant) -> list[dict[str, Any]]:
    with tenant.admin.client("audit:read") as client:
        return list(client.get(AUDIT, params={"limit": 200}).json()["data"])


def test_dates_bound_what_is_verified_and_exported(tenant: Tenant) -> None:
    tenant.agent()
    sealed(tenant)
    events = sorted((event for event in _all(tenant) if event["seq"]), key=lambda event: event["seq"])
    one = events[1]["timestamp"]
    same = [event["seq"] for event in events if event["timestamp"] == one]
    found = get(tenant, "verify", fromDate=one, toDate=one).json()
    assert (found["verified"], found["fromSeq"], found["toSeq"]) == (True, min(same), max(same))
    assert (found["fromDate"], found["toDate"]) == (one, one)
    lines = get(tenant, "export", fromDate=one, toDate=one).content.splitlines(keepends=True)
    assert [json.loads(line)["seq"] for line in lines[:-1]] == list(range(min(same), max(same) + 1))
    assert check_export(lines, is_part=True).broken is None
    assert parse_note(json.loads(lines[-1])["checkpoint"])[0].is_part
    newest = get(tenant, "export", fromDate=one).content.splitlines(keepends=True)
    assert not parse_note(json.loads(newest[-1])["checkpoint"])[0].is_part
    nothing = get(tenant, "export", toDate="2001-01-01T00:00:00Z").content.splitlines(keepends=True)
    assert parse_note(json.loads(nothing[-1])["checkpoint"])[0].size >= max(same)
    empty = get(tenant, "verify", toDate="2001-01-01T00:00:00Z").json()
    assert (empty["verified"], empty["checkedCount"], empty["fromSeq"], empty["toSeq"]) == (True, 0, None, None)
    assert check_export(get(tenant, "export", toDate="2001-01-01T00:00:00Z").content.splitlines(keepends=True), is_part=True).broken is None


@pytest.mark.parametrize("path", ["verify", "export"])
@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"fromDate": "2026-01-02T00:00:00Z", "toDate": "2026-01-01T00:00:00Z"}, "INVALID_DATE_RANGE"),
        ({"fromDate": "2026-01-02T00:00:00"}, "VALIDATION_ERROR"),
        ({"toDate": "99999-01-01T00:00:00Z"}, "VALIDATION_ERROR"),
        ({"toDate": "1969-01-01T00:00:00Z"}, "VALIDATION_ERROR"),
        ({"action": "token.issued"}, "VALIDATION_ERROR"),
    ],
    ids=str,
)
def test_refuses_wrong_parameters(tenant: Tenant, path: str, parameters: dict[str, str], code: str) -> None:
    with tenant.admin.client("audit:read") as client:
        refused = client.get(f"{AUDIT}/{path}", params=parameters)
    assert (refused.status_code, refused.json()["code"]) == (400, code)


def test_nobody_sees_another_organizations_proof(tenant: Tenant, other_tenant: Tenant) -> None:
    sealed(other_tenant)
    assert other_tenant.organization_id not in get(tenant, "export").text
    assert other_tenant.organization_id not in get(tenant, "verify").text


@pytest.mark.parametrize(("path", "turns"), [("verify", "audit_verifications"), ("export", "audit_exports")])
def test_only_so_many_at_once(tenant: Tenant, path: str, turns: str) -> None:
    """The next is told to come again, and is served when one is done."""
    at_once = getattr(tenant.server.instance, turns)
    taken = [at_once.take() for _ in range(limits.AUDIT_VERIFICATIONS_MAX if path == "verify" else limits.AUDIT_EXPORTS_MAX)]

    async def enter(*, leave: bool = False) -> None:
        for turn in taken:
            turn.__exit__(None, None, None) if leave else turn.__enter__()

    tenant.server.await_(enter())
    try:
        with tenant.admin.client("audit:read") as client:
            refused = client.get(f"{AUDIT}/{path}")
            assert (refused.status_code, refused.json()["code"]) == (503, "SERVICE_UNAVAILABLE")
            assert refused.headers["retry-after"]
    finally:
        tenant.server.await_(enter(leave=True))
    get(tenant, path)


def test_a_client_that_goes_away_ends_its_export(own_server: RunningServer) -> None:
    tenant = make_tenant(own_server)
    sealed(tenant)
    token = tenant.admin.token("audit:read")
    host, port = own_server.url.removeprefix("http://").split(":")
    for _ in range(limits.AUDIT_EXPORTS_MAX + 2):  # each would keep its turn
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"GET {AUDIT}/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 200"
    deadline = time.monotonic() + 5
    while own_server.instance.audit_exports._left < limits.AUDIT_EXPORTS_MAX:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    get(tenant, "export")


def test_times_are_those_of_the_checkpoint(tenant: Tenant) -> None:
    sealed(tenant)
    found = get(tenant, "checkpoint").json()
    assert f"time {found['time']}\n" in found["note"]
    assert from_rfc3339(found["time"]) <= tenant.server.clock()
