"""The billing group is what its specification says: `billing-contract.json` is a copy of the user's own, fact by fact; nobody edits it here."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.billing.test_webhook import written
from tests.contract.test_document import DOCUMENT
from tests.fakes.fake_stripe import FakeStripe
from tests.fakes.stripe_webhooks import event_body
from tests.serving import NO_TLS, RunningServer
from tests.tenants import Tenant, make_customer

from agentidp.core.ids import is_id

CONTRACT: dict[str, Any] = json.loads(Path(__file__).with_name("billing-contract.json").read_text("utf-8"))
BASE = CONTRACT["basePath"]
each_operation = pytest.mark.parametrize("said", CONTRACT["operations"], ids=lambda said: said["operationId"])
KINDS = {
    "string": {"type": "string"},
    "string:uri": {"type": "string", "format": "uri"},
    "string:uuid": {"type": "string", "format": "uuid"},
    "string:date": {"type": "string", "format": "date"},
    "integer>=0": {"type": "integer", "minimum": 0},
    "boolean": {"type": "boolean"},
    "object": {"type": "object"},
}


def operation(said: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][BASE + said["path"]][said["method"]]
    return found


@each_operation
def test_the_document_has_the_operation(said: dict[str, Any]) -> None:
    served = operation(said)
    assert (served["operationId"], served["tags"]) == (said["operationId"], [said["tag"]])
    assert bool(served["security"]) == said["secured"]
    assert ("requestBody" in served) == ("requestBody" in said)
    if "requestBody" in said:
        assert served["requestBody"].get("required", False) == said["requestBody"]["required"]
        schema = served["requestBody"]["content"]["application/json"]["schema"]
        name = said["requestBody"]["schema"]
        assert schema.get("$ref", "").endswith(f"/{name}") if name in CONTRACT["schemas"] else schema["type"] == "object"
    if header := said.get("requiredHeader"):
        assert [(one["name"], one["in"], one["required"]) for one in served["parameters"]] == [(header, "header", True)]


@each_operation
def test_the_document_has_its_answers(said: dict[str, Any]) -> None:
    """All that are specified; beside them are those that every operation of this API has."""
    responses = operation(said)["responses"]
    assert [status for status in responses if status < "400"] == [status for status in said["responses"] if status < "400"]
    for status, schema in said["responses"].items():
        assert responses[status]["content"]["application/json"]["schema"]["$ref"].endswith(f"/{schema}")
    for status, codes in said["errors"].items():
        assert set(codes) <= responses[status]["content"]["application/json"]["examples"].keys()


@pytest.mark.parametrize("name", CONTRACT["schemas"])
def test_the_document_has_the_schema(name: str) -> None:
    """Every field with its type. `apiCallsTotal` and `details` are always there, or left out, as the specification allows."""
    said, served = CONTRACT["schemas"][name], DOCUMENT["components"]["schemas"][name]
    assert served["type"] == "object"
    assert set(said["required"]) <= set(served.get("required", [])) <= said["properties"].keys()
    for field, kind in said["properties"].items():
        assert KINDS[kind].items() <= served["properties"][field].items(), field


@pytest.fixture
def shopper(tenant: Tenant) -> Tenant:
    make_customer(tenant)
    return tenant


def test_checkout_answers_as_specified(shopper: Tenant, stripe: FakeStripe) -> None:
    with shopper.admin.client() as client:
        answers = [client.post(f"{BASE}/billing/checkout"), client.post(f"{BASE}/billing/checkout", json={})]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json().keys() == {"checkoutUrl"}
    assert answers[0].json()["checkoutUrl"].startswith(stripe.url)


def test_errors_are_as_specified(shopper: Tenant) -> None:
    messages = CONTRACT["messages"]
    with shopper.server.client() as client:
        for said in CONTRACT["operations"]:
            if said["secured"]:
                answer = client.request(said["method"], BASE + said["path"])
                assert (answer.status_code, answer.json()) == (401, {"code": "UNAUTHORIZED", "message": messages["401"]})
        missing = client.post(f"{BASE}/billing/webhook", json={})
        forged = client.post(f"{BASE}/billing/webhook", json={}, headers={"Stripe-Signature": "t=1,v1=0"})
    assert (missing.status_code, missing.json()) == (400, {"code": "VALIDATION_ERROR", "message": messages["400 webhook, no header"]})
    assert (forged.status_code, forged.json()) == (400, {"code": "STRIPE_SIGNATURE_INVALID", "message": messages["400 webhook, bad signature"]})


def test_the_webhook_answers_as_specified(server: RunningServer) -> None:
    for kind in next(said["events"] for said in CONTRACT["operations"] if "events" in said):
        body = event_body(FakeStripe().event(kind, {"object": "x", "customer": "cus_nobody"}))
        headers = {"Content-Type": "application/json", "Stripe-Signature": written("t={now},v1={good}", body)}
        with server.client() as client:
            answer = client.post(f"{BASE}/billing/webhook", content=body, headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"received": True})


def test_usage_answers_as_specified(tenant: Tenant) -> None:
    with tenant.admin.client() as client:
        answer = client.get(f"{BASE}/billing/usage")
    assert answer.status_code == 200
    assert answer.json().keys() == CONTRACT["schemas"]["UsageSummary"]["properties"].keys()
    assert is_id(answer.json()["organizationId"])


def test_a_failing_stripe_is_said_as_specified(shopper: Tenant, stripe: FakeStripe) -> None:
    headers = {"Authorization": f"Bearer {shopper.admin.token()}"}
    stripe.fail_next(400, times=2, path="/v1/checkout/sessions")  # closing the one that led elsewhere, and opening the new one
    with httpx2.Client(base_url=shopper.server.url, headers=headers, verify=NO_TLS) as client:
        answer = client.post(f"{BASE}/billing/checkout", json={"successUrl": f"{shopper.server.url}/elsewhere"})
    assert (answer.status_code, answer.json()["code"]) == (500, "STRIPE_ERROR")
