"""/audit/verify, /audit/checkpoint and /audit/export over real HTTP on both engines, and that what they give is what an auditor can check."""

import asyncio
import contextlib
import json
import selectors
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.serving import RunningServer
from tests.tenants import Tenant, make_tenant

from agentidp.audit.api import _Lines
from agentidp.audit.exports import check_export
from agentidp.core import limits
from agentidp.core.clock import from_rfc3339
from agentidp.core.turns import Turns
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
    organizations = [f"another-{number}" for number in range(limits.AUDIT_VERIFICATIONS_MAX if path == "verify" else limits.AUDIT_EXPORTS_MAX)]
    with taken(tenant.server, at_once, organizations), tenant.admin.client("audit:read") as client:
        refused = client.get(f"{AUDIT}/{path}")
        assert (refused.status_code, refused.json()["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert refused.headers["retry-after"]
    get(tenant, path)


@pytest.mark.parametrize(("path", "turns"), [("verify", "audit_verifications"), ("export", "audit_exports")])
def test_only_so_many_of_one_organization(tenant: Tenant, other_tenant: Tenant, path: str, turns: str) -> None:
    """It alone is told to wait; the others are served."""
    mine = [tenant.organization_id] * (limits.AUDIT_VERIFICATIONS_EACH_MAX if path == "verify" else limits.AUDIT_EXPORTS_EACH_MAX)
    with taken(tenant.server, getattr(tenant.server.instance, turns), mine), tenant.admin.client("audit:read") as client:
        refused = client.get(f"{AUDIT}/{path}")
        assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMIT_EXCEEDED")
        assert refused.headers["retry-after"]
        get(other_tenant, path)
    get(tenant, path)


@contextlib.contextmanager
def taken(server: RunningServer, turns: Turns, organizations: list[str]) -> Iterator[None]:
    """A turn for each, until the block ends."""
    held = contextlib.ExitStack()

    async def take() -> None:
        for organization_id in organizations:
            held.enter_context(turns.take(organization_id))

    async def leave() -> None:
        held.close()

    server.await_(take())
    try:
        yield
    finally:
        server.await_(leave())


class Hastened(selectors.DefaultSelector):
    """Waits a hundredth of the time that a loop asks for."""

    def select(self, timeout: float | None = None) -> Any:
        return super().select(timeout / 100 if timeout else timeout)


class HastenedLoop(asyncio.SelectorEventLoop):
    """A hundred seconds of it are a second."""

    def __init__(self) -> None:
        super().__init__(Hastened())

    def time(self) -> float:
        return super().time() * 100


@pytest.mark.parametrize(
    ("pieces", "seconds", "count"),
    [
        pytest.param(400_000, 40, 1, id="a piece now and then"),
        pytest.param(0, 120, 0, id="nothing at all"),
        pytest.param(8 * 1024 * 1024, 20, 5, id="slow, but good enough"),
    ],
)
def test_a_reader_that_takes_too_little_is_cut_off(pieces: int, seconds: float, count: int) -> None:
    """The test's time runs a hundred times as fast; the bounds are wide enough for that."""
    sent: list[Any] = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * pieces

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and message["more_body"]:
            await asyncio.sleep(seconds)
            sent.append(message)

    with asyncio.Runner(loop_factory=HastenedLoop) as runner, contextlib.suppress(TimeoutError):
        runner.run(_Lines(body()).stream_response(send))
    assert len(sent) == count


def test_a_client_that_goes_away_ends_its_export(own_server: RunningServer) -> None:
    tenant = make_tenant(own_server)
    sealed(tenant)
    token = tenant.admin.token("audit:read")
    host, port = own_server.url.removeprefix("http://").split(":")
    deadline = time.monotonic() + 10
    for _ in range(limits.AUDIT_EXPORTS_MAX + 2):  # each would keep its turn
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"GET {AUDIT}/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 200"
        while own_server.instance.audit_exports._taken:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    get(tenant, "export")


def test_times_are_those_of_the_checkpoint(tenant: Tenant) -> None:
    sealed(tenant)
    found = get(tenant, "checkpoint").json()
    assert f"time {found['time']}\n" in found["note"]
    assert from_rfc3339(found["time"]) <= tenant.server.clock()
