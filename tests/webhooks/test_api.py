"""The operations over real HTTP on both engines. Tenancy, scopes and malformed requests are in the matrices and families that cover every operation."""

import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from standardwebhooks import Webhook as Verifier
from tests.fakes.fake_receiver import Behaviour, FakeReceiver
from tests.serving import RunningServer
from tests.tenants import Tenant, make_tenant
from tests.webhooks.made import NOWHERE, make_webhook

from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.webhooks.rules import EVENT_TYPES

PATH = "/api/v1/webhooks"


def body(**values: Any) -> dict[str, Any]:
    return {"name": "ops", "url": NOWHERE, "events": ["agent.created"]} | values


def eventually(look: Callable[[], Any], wanted: Any) -> None:
    until = time.monotonic() + 20
    while (found := look()) != wanted and time.monotonic() < until:
        time.sleep(0.05)
    assert found == wanted


@pytest.fixture
def sender(sending_server: RunningServer) -> Tenant:
    return make_tenant(sending_server)


def test_a_webhook_from_its_creation_to_its_end(tenant: Tenant) -> None:
    with tenant.admin.client("webhooks:read webhooks:write") as client:
        made = client.post(PATH, json=body(events=["token.revoked", "agent.created"]))
        assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
        webhook = made.json()
        secret = webhook.pop("signingSecret")
        assert secret.startswith("whsec_")
        assert webhook | {"webhookId": "", "createdAt": "", "updatedAt": ""} == {
            "webhookId": "",
            "organizationId": tenant.organization_id,
            "name": "ops",
            "url": NOWHERE,
            "events": ["agent.created", "token.revoked"],
            "active": True,
            "disabledReason": None,
            "failureCount": 0,
            "failingSince": None,
            "lastDeliveryAt": None,
            "createdAt": "",
            "updatedAt": "",
        }
        one = f"{PATH}/{webhook['webhookId']}"
        assert client.get(one).json() == webhook
        assert client.get(PATH).json()["data"] == [webhook]
        changed = client.patch(one, json={"name": "ops 2", "events": ["token.issued"], "url": f"{NOWHERE}/2", "active": False}).json()
        assert (changed["name"], changed["events"], changed["url"]) == ("ops 2", ["token.issued"], f"{NOWHERE}/2")
        assert (changed["active"], changed["disabledReason"]) == (False, "by_request")
        assert client.patch(one, json={"active": True}).json()["disabledReason"] is None
        rotated = client.post(f"{one}/rotate-secret")
        assert rotated.headers["cache-control"] == "no-store"
        assert rotated.json()["signingSecret"] not in {secret, None}
        assert client.delete(one).status_code == 204
        for gone in (client.get(one), client.delete(one), client.patch(one, json={}), client.post(f"{one}/test"), client.post(f"{one}/rotate-secret")):
            assert (gone.status_code, gone.json()["code"]) == (404, "WEBHOOK_NOT_FOUND")
        assert client.get(PATH).json()["data"] == []


def test_every_act_is_on_record_without_a_secret(tenant: Tenant) -> None:
    with tenant.admin.client() as client:
        made = client.post(PATH, json=body(url="https://hooks.acme.example/s3cr3t-path?key=s3cr3t-key")).json()
        one = f"{PATH}/{made['webhookId']}"
        client.patch(one, json={"name": "x"})
        secret = client.post(f"{one}/rotate-secret").json()["signingSecret"]
        client.delete(one)
        events = client.get("/api/v1/audit", params={"targetId": made["webhookId"]})
        assert [event["action"] for event in events.json()["data"]] == ["webhook.deleted", "webhook.secret_rotated", "webhook.updated", "webhook.created"]
        assert events.json()["data"][-1]["metadata"] == {"events": ["agent.created"], "host": "hooks.acme.example"}
        for text in (events.text, client.get(PATH).text):
            assert not [word for word in ("whsec_", "s3cr3t", secret) if word in text]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\r\nX-Injected: 1"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"url": ""}, "url"),
        ({"url": "https://a.example/" + "x" * 2048}, "url"),
        ({"url": 5}, "url"),
        ({"events": []}, "events"),
        ({"events": ["agent.created", "agent.created"]}, "events"),
        ({"events": ["agent.exploded"]}, "events.0"),
        ({"events": ["*"]}, "events.0"),
        ({"events": "agent.created"}, "events"),
        ({"events": None}, "events"),
        ({"active": True}, "active"),
        ({"signingSecret": "whsec_" + "A" * 44}, "signingSecret"),
        ({"organizationId": "01900000-0000-7000-8000-000000000000"}, "organizationId"),
        ({"failureCount": 0}, "failureCount"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(tenant: Tenant, values: dict[str, Any], field: str) -> None:
    with tenant.admin.client() as client:
        refused = client.post(PATH, json=body(**values))
        assert (refused.status_code, refused.json()["code"]) == (400, "VALIDATION_ERROR")
        assert [entry["field"] for entry in refused.json()["details"]["fields"]] == [field]
        assert client.get(PATH).json()["total"] == 0


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://hooks.acme.example/", "scheme"),
        ("ftp://hooks.acme.example/", "scheme"),
        ("https://hooks.acme.example:22/", "port"),
        ("https://user:pw@hooks.acme.example/", "userinfo"),
        ("https://hooks.acme.example/#top", "fragment"),
        ("https://127.0.0.1/", "forbidden_address"),
        ("https://2130706433/", "forbidden_address"),
        ("https://0177.0.0.1/", "forbidden_address"),
        ("https://127.1/", "forbidden_address"),
        ("https://[::1]/", "forbidden_address"),
        ("https://[::ffff:10.0.0.1]/", "forbidden_address"),
        ("https://[64:ff9b::a9fe:a9fe]/", "forbidden_address"),
        ("https://169.254.169.254/latest/meta-data/", "forbidden_address"),
        ("https://localhost/", "forbidden_address"),
        ("https://metadata.google.internal/", "forbidden_address"),
        ("https://hooks.acme.example\\@127.0.0.1/", "characters"),
        ("https://hooks.acme.example/a\tb", "characters"),
        ("https://hooks.acme.example/\r\nHost: x", "characters"),
        ("https://１２７.0.0.1/", "characters"),
        ("https:///nowhere", "host"),
        ("//hooks.acme.example/", "scheme"),
    ],
    ids=str,
)
def test_an_address_that_may_not_be_called_is_refused_with_the_reason(strict_server: RunningServer, url: str, reason: str) -> None:
    tenant = make_tenant(strict_server)
    made = make_webhook(tenant.server, tenant.organization_id)
    with tenant.admin.client() as client:
        for refused in (client.post(PATH, json=body(url=url)), client.patch(f"{PATH}/{made['webhookId']}", json={"url": url})):
            assert (refused.status_code, refused.json()["code"]) == (400, "VALIDATION_ERROR")
            details = refused.json()["details"]
            found = details.get("reason"), [entry["field"] for entry in details["fields"]]
            assert found == (reason, ["url"])


def test_an_organization_has_so_many_and_no_more(tenant: Tenant) -> None:
    for _ in range(limits.WEBHOOKS_PER_ORGANIZATION_MAX - 1):
        make_webhook(tenant.server, tenant.organization_id)
    with tenant.admin.client() as client:
        last = client.post(PATH, json=body())
        assert last.status_code == 201
        assert (client.post(PATH, json=body()).status_code, client.get(PATH).json()["total"]) == (409, limits.WEBHOOKS_PER_ORGANIZATION_MAX)
        client.delete(f"{PATH}/{last.json()['webhookId']}")
        assert client.post(PATH, json=body()).status_code == 201


def test_what_happens_is_told_by_the_running_server(sender: Tenant, receiver: FakeReceiver) -> None:
    with sender.admin.client() as client:
        made = client.post(PATH, json=body(url=receiver.url, events=list(EVENT_TYPES))).json()
        agent = sender.agent()
        client.patch(f"/api/v1/agents/{agent.agent_id}", json={"name": "renamed"})
        client.patch(f"/api/v1/agents/{agent.agent_id}", json={"status": "suspended"})
        client.patch(f"/api/v1/agents/{agent.agent_id}", json={"status": "active"})
        credential = client.post(f"/api/v1/agents/{sender.admin.agent_id}/credentials").json()["credentialId"]
        client.post(f"/api/v1/agents/{sender.admin.agent_id}/credentials/{credential}/rotate")
        client.delete(f"/api/v1/agents/{sender.admin.agent_id}/credentials/{credential}")
        token = agent.token()
        client.post("/api/v1/token/revoke", data={"token": token})
        client.delete(f"/api/v1/agents/{agent.agent_id}")
        wanted = {"created", "updated", "suspended", "reactivated", "decommissioned"}
        types = (
            {f"agent.{word}" for word in wanted} | {f"credential.{word}" for word in ("generated", "rotated", "revoked")} | {"token.issued", "token.revoked"}
        )
        eventually(lambda: {Verifier(made["signingSecret"]).verify(one.body, one.headers)["type"] for one in receiver.received}, types)
        log = client.get(f"{PATH}/{made['webhookId']}/deliveries").json()["data"]
        assert {entry["status"] for entry in log} <= {"delivered", "pending"}
        assert "webhook.created" not in str(log), "a type that nobody can ask for"


def test_a_test_is_sent_and_its_outcome_shown(sender: Tenant, receiver: FakeReceiver) -> None:
    with sender.admin.client() as client:
        one = f"{PATH}/{client.post(PATH, json=body(url=receiver.url)).json()['webhookId']}"
        asked = client.post(f"{one}/test")
        assert (asked.status_code, asked.json()["eventType"], asked.json()["status"]) == (202, "webhook.test", "pending")
        delivery = f"{one}/deliveries/{asked.json()['deliveryId']}"
        eventually(lambda: client.get(delivery).json()["status"], "delivered")
        shown = client.get(delivery).json()
        assert (shown["responseBody"], shown["attempts"], shown["body"].encode()) == ("thanks", 1, receiver.received[0].body)
        assert client.get(one).json()["lastDeliveryAt"] == shown["completedAt"]
        again = client.post(f"{delivery}/redeliver")
        assert (again.status_code, again.json()["status"], again.json()["deliveryId"]) == (202, "pending", shown["deliveryId"])
        eventually(lambda: len(receiver.received), 2)
        eventually(lambda: client.get(delivery).json()["status"], "delivered")
        client.patch(one, json={"active": False})
        for refused in (client.post(f"{one}/test"), client.post(f"{delivery}/redeliver")):
            assert (refused.status_code, refused.json()["code"]) == (409, "CONFLICT")


def test_a_delivery_that_waits_is_not_asked_for_again(sender: Tenant, receiver: FakeReceiver) -> None:
    receiver.behaviour = Behaviour(status=lambda _: 500)
    with sender.admin.client() as client:
        one = f"{PATH}/{client.post(PATH, json=body(url=receiver.url)).json()['webhookId']}"
        delivery = f"{one}/deliveries/{client.post(f'{one}/test').json()['deliveryId']}"
        eventually(lambda: client.get(delivery).json()["status"], "failed")
        refused = client.post(f"{delivery}/redeliver")
        assert (refused.status_code, refused.json()["message"]) == (409, "The delivery is waiting for its next attempt already.")


def test_the_log_is_filtered_and_paged(tenant: Tenant) -> None:
    made = make_webhook(tenant.server, tenant.organization_id)
    path = f"{PATH}/{made['webhookId']}/deliveries"
    with tenant.admin.client() as client:
        waiting = [client.post(f"{PATH}/{made['webhookId']}/test").json()["deliveryId"] for _ in range(3)]
        everything = client.get(path).json()
        assert [entry["deliveryId"] for entry in everything["data"]] == [*reversed(waiting), made["deliveryId"]]
        assert [entry["deliveryId"] for entry in client.get(path, params={"status": "delivered"}).json()["data"]] == [made["deliveryId"]]
        assert client.get(path, params={"status": "dead_letter"}).json()["data"] == []
        first = client.get(path, params={"limit": 2}).json()
        second = client.get(path, params={"limit": 2, "cursor": first["nextCursor"]}).json()
        assert [entry["deliveryId"] for entry in first["data"] + second["data"]] == [entry["deliveryId"] for entry in everything["data"]]
        assert client.get(path, params={"status": "lost"}).status_code == 400
        other = make_webhook(tenant.server, tenant.organization_id)
        mixed: httpx2.Response = client.get(f"{PATH}/{other['webhookId']}/deliveries/{made['deliveryId']}")
        assert (mixed.status_code, mixed.json()["code"]) == (404, "DELIVERY_NOT_FOUND")


def test_a_plan_that_changes_is_told(sender: Tenant, receiver: FakeReceiver) -> None:
    from agentidp.auth.scopes import SCOPES
    from agentidp.organizations.actions import set_plan

    with sender.admin.client() as client:
        client.post(PATH, json=body(url=receiver.url, events=["tier.downgraded", "tier.upgraded"]))
    for tier in ("pro", "enterprise"):
        sender.server.write(set_plan, Caller(sender.organization_id, scopes=frozenset(SCOPES)), tier, subscription=None)
    eventually(lambda: [one.body.split(b'"type":"')[1].split(b'"')[0] for one in receiver.received], [b"tier.downgraded", b"tier.upgraded"])
