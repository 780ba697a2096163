"""The four operations over real HTTP, against a server whose worker runs by itself; and a Stripe that fails in every way."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from tests.auth.forgery import forge, parts
from tests.billing.test_rules import ELSEWHERE
from tests.fakes.fake_stripe import FakeStripe
from tests.serving import NO_TLS, RunningServer, settings_for, stripe_settings
from tests.tenants import Tenant, make_tenant, registration

from agentidp.billing.stripe import Stripe, open_stripe
from agentidp.core import limits
from agentidp.core.caller import SYSTEM, Caller
from agentidp.core.errors import WrongSettings
from agentidp.db.schema import billing_checkouts, billing_customers, organizations
from agentidp.db.unit import Tx

CHECKOUT, WEBHOOK, USAGE, PORTAL = (f"/api/v1/billing/{name}" for name in ("checkout", "webhook", "usage", "portal"))
OTHER_SECRET = "whsec_the_one_before_this_one_0123456789"


def plan(tenant: Tenant) -> str:
    def find(tx: Tx) -> Any:
        return tx.one(sa.select(organizations.c.plan_tier).where(organizations.c.organization_id == tenant.organization_id))

    return str(tenant.server.read(find, SYSTEM)[0])


def stored(tenant: Tenant) -> list[Any]:
    """Everything that billing holds of the tenant."""

    def find(tx: Tx) -> list[Any]:
        return [
            row
            for table in (billing_customers, billing_checkouts)
            for row in tx.all(sa.select(table).where(table.c.organization_id == tx.caller.organization_id))
        ]

    return list(tenant.server.read(find, Caller(tenant.organization_id)))


def eventually(look: Callable[[], Any], wanted: Any, seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while look() != wanted and time.monotonic() < until:
        time.sleep(0.02)
    assert look() == wanted


def sessions(till: FakeStripe, tenant: Tenant) -> list[Any]:
    return [one for one in till.all("checkout.session") if one["client_reference_id"] == tenant.organization_id]


# Checkout


def test_a_checkout_is_paid_and_the_plan_is_there_within_a_second(buyer: Tenant, till: FakeStripe) -> None:
    with buyer.admin.client() as client:
        answer = client.post(CHECKOUT)
    assert answer.status_code == 201
    (session,) = sessions(till, buyer)
    assert answer.json() == {"checkoutUrl": session["url"]}
    issuer = buyer.server.url
    assert (session["success_url"], session["cancel_url"]) == (f"{issuer}/console?billing=success", f"{issuer}/console?billing=cancel")
    assert [line["price"]["id"] for line in till.line_items(session)] == ["price_pro"]
    till.pay(session["id"])
    assert {one.status for one in till.deliver(buyer.server.url + WEBHOOK, copies=2)} == {200}
    eventually(lambda: plan(buyer), "pro", 1)


def test_one_open_checkout_for_a_plan_whoever_asks_and_how_often(buyer: Tenant, till: FakeStripe) -> None:
    with buyer.admin.client() as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post(CHECKOUT), range(8)))
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.json()["checkoutUrl"] for answer in answers}) == len(sessions(till, buyer)) == 1
        assert client.post(CHECKOUT, json={"targetTier": "pro"}).json() == answers[0].json()
        higher = client.post(CHECKOUT, json={"targetTier": "enterprise"}).json()
        assert higher != answers[0].json()
        elsewhere = client.post(CHECKOUT, json={"successUrl": "https://app.example.com/paid"}).json()
    by_url = {one["url"]: one["status"] for one in sessions(till, buyer) if one["url"]}
    assert by_url == {higher["checkoutUrl"]: "open", elsewhere["checkoutUrl"]: "open"}, "the one that led elsewhere was closed"
    assert len([one for one in till.all("customer") if one["metadata"].get("organization_id") == buyer.organization_id]) == 1


def test_after_a_purchase_the_next_checkout_is_a_new_one(buyer: Tenant, till: FakeStripe) -> None:
    with buyer.admin.client() as client:
        subscription = till.pay(client.post(CHECKOUT).json()["checkoutUrl"].rpartition("/")[2])
        till.deliver(buyer.server.url + WEBHOOK)
        eventually(lambda: plan(buyer), "pro")
        refused = client.post(CHECKOUT, json={"targetTier": "pro"})
        assert (refused.status_code, refused.json()["details"]["fields"][0]["field"]) == (400, "targetTier")
        till.cancel(subscription)
        till.deliver(buyer.server.url + WEBHOOK)
        eventually(lambda: plan(buyer), "free")
        till.pay(client.post(CHECKOUT).json()["checkoutUrl"].rpartition("/")[2])
    assert len(sessions(till, buyer)) == 2


@pytest.mark.parametrize(
    "body",
    [
        *({"successUrl": address} for address in ELSEWHERE),
        {"cancelUrl": "https://app.example.com.evil.example/"},
        {"cancelUrl": None},
        {"targetTier": "free"},
        {"targetTier": "platinum"},
        {"targetTier": None},
        {"organizationId": "x"},
        {"successUrl": "https://app.example.com/" + "x" * limits.URL_CHARACTERS_MAX},
        {"successUrl": "https://app.example.com/\n"},
    ],
    ids=lambda body: str(body)[:60],
)
def test_wrong_wishes_are_refused(buyer: Tenant, till: FakeStripe, body: dict[str, Any]) -> None:
    with buyer.admin.client() as client:
        answer = client.post(CHECKOUT, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR")
    assert [row["field"] for row in answer.json()["details"]["fields"]] == list(body)
    assert (stored(buyer), sessions(till, buyer)) == ([], [])


def test_who_may_not(buyer: Tenant) -> None:
    with buyer.admin.client("billing:read") as client:
        assert [client.post(CHECKOUT).status_code, client.get(PORTAL).status_code, client.get(USAGE).status_code] == [403, 403, 200]
    with buyer.server.client() as client:
        refused = [client.post(CHECKOUT), client.get(PORTAL), client.get(USAGE)]
    assert {(answer.status_code, answer.json()["message"]) for answer in refused} == {(401, "A valid Bearer token is required to access this resource.")}


def test_a_token_without_organization_is_told_so_here_only(buyer: Tenant) -> None:
    """Everything else about it must be right: else it is 401, as everywhere."""
    key = buyer.server.instance.keys.current.private_key
    header, claims = parts(buyer.admin.token())
    without = {name: value for name, value in claims.items() if name != "organization_id"}
    with buyer.server.client() as client:

        def ask(path: str, claims: dict[str, Any], method: str = "POST") -> tuple[int, str, str]:
            answer = client.request(method, path, headers={"Authorization": f"Bearer {forge(key, header, claims)}"})
            return answer.status_code, answer.json()["code"], answer.json()["message"]

        for _ in range(2):  # the second time from memory
            assert ask(CHECKOUT, without) == (400, "VALIDATION_ERROR", "organization_id is required in token.")
        for path in (USAGE, PORTAL, "/api/v1/agents"):
            assert ask(path, without, "GET")[:2] == (401, "UNAUTHORIZED")
        wrong = [{"exp": claims["iat"] - 1}, {"aud": "https://other.example"}, {"iss": "https://other.example"}, {"sub": "x"}, {"organization_id": "x"}]
        for change in wrong:
            assert ask(CHECKOUT, without | change)[:2] == (401, "UNAUTHORIZED"), change


# A Stripe that fails

TROUBLES: list[Any] = [500, 502, 429, 400, 401, 402, 403, 404, 409, "reset", "malformed"]


@pytest.mark.parametrize("is_done", [False, True], ids=["nothing done", "only the answer is lost"])
@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
def test_when_stripe_fails_nothing_is_changed_and_the_next_try_works(buyer: Tenant, till: FakeStripe, trouble: Any, *, is_done: bool) -> None:
    till.fail_next(trouble, times=50, is_done=is_done)
    with httpx2.Client(base_url=buyer.server.url, headers={"Authorization": f"Bearer {buyer.admin.token()}"}, verify=NO_TLS, timeout=30) as client:
        answer = client.post(CHECKOUT)
        assert (answer.status_code, answer.json()) == (500, {"code": "STRIPE_ERROR", "message": "Failed to create Stripe Checkout Session. Please try again."})
        assert stored(buyer) == []
        till.heal()
        assert client.post(CHECKOUT).status_code == 201
    assert len(sessions(till, buyer)) == 1


def test_an_error_that_stripe_keeps_repeating_to_a_key_does_not_last(buyer: Tenant, till: FakeStripe) -> None:
    """Stripe saves a server error under the idempotency key: whoever tries again with the same key gets it again, for a day."""
    till.fail_next(500, times=1, path="/v1/checkout/sessions", is_saved=True)
    with buyer.admin.client() as client:
        assert client.post(CHECKOUT).status_code == 201
    assert len(sessions(till, buyer)) == 1


def test_a_stripe_that_does_not_answer_is_not_waited_for(buyer: Tenant, till: FakeStripe) -> None:
    till.fail_next("hang", seconds=30, times=5)
    with httpx2.Client(base_url=buyer.server.url, headers={"Authorization": f"Bearer {buyer.admin.token()}"}, verify=NO_TLS, timeout=30) as client:
        started = time.monotonic()
        answer = client.post(CHECKOUT)
        assert time.monotonic() - started < 10
    assert (answer.status_code, answer.json()["code"], stored(buyer)) == (500, "STRIPE_ERROR", [])


def test_the_portal_says_which_call_failed(buyer: Tenant, till: FakeStripe) -> None:
    with httpx2.Client(base_url=buyer.server.url, headers={"Authorization": f"Bearer {buyer.admin.token()}"}, verify=NO_TLS, timeout=30) as client:
        assert (client.get(PORTAL).status_code, client.get(PORTAL).json()["code"]) == (404, "NOT_FOUND")
        client.post(CHECKOUT)
        found = client.get(PORTAL)
        assert found.json()["portalUrl"] == till.all("billing_portal.session")[-1]["url"]
        assert till.all("billing_portal.session")[-1]["return_url"] == f"{buyer.server.url}/console"
        till.fail_next(400)
        assert client.get(PORTAL).json() == {"code": "STRIPE_ERROR", "message": "Failed to open the Stripe customer portal. Please try again."}


# Usage


def test_usage_is_exact(buyer: Tenant) -> None:
    with buyer.admin.client() as client:
        before = client.get(USAGE).json()
        for _ in range(3):
            agent = client.post("/api/v1/agents", json=registration()).json()["agentId"]
        client.post(f"/api/v1/agents/{agent}/credentials")
        client.get("/api/v1/agents")
        buyer.admin.token()
        after = client.get(USAGE).json()
        with buyer.server.clock.ahead(seconds=24 * 3600), buyer.admin.client() as tomorrow:
            fresh = tomorrow.get(USAGE).json()
    assert after["organizationId"] == buyer.organization_id
    assert after["date"] == datetime.now(UTC).date().isoformat()
    grown = {name: after[name] - before[name] for name in after if name not in {"organizationId", "date"}}
    assert grown == {"tokensIssued": 1, "agentsRegistered": 3, "credentialsGenerated": 1, "apiCallsTotal": 6}
    assert {name: fresh[name] for name in grown} == {"tokensIssued": 1, "agentsRegistered": 0, "credentialsGenerated": 0, "apiCallsTotal": 1}
    assert fresh["date"] > after["date"]


@pytest.mark.parametrize("settings", [{}, {"features": {"billing": False}}], ids=["no key", "switched off"])
def test_where_nothing_is_sold_only_usage_is_there(tmp_path: Any, till: FakeStripe, engine: str, settings: dict[str, Any]) -> None:
    if engine == "postgresql":
        return  # nothing here reaches a database
    server = RunningServer(settings_for(tmp_path, None, **({"stripe": stripe_settings(till)} if settings else {}), **settings))
    try:
        tenant = make_tenant(server)
        with tenant.admin.client() as client:
            assert [client.post(CHECKOUT).status_code, client.post(WEBHOOK).status_code, client.get(PORTAL).status_code] == [404, 404, 404]
            assert client.get(USAGE).status_code == 200
            assert [path for path in client.get("/openapi.json").json()["paths"] if "billing" in path] == [USAGE]
    finally:
        server.stop()


def test_what_must_be_set_to_sell(tmp_path: Any, till: FakeStripe) -> None:
    """Nothing falls back silently: a key without the webhook's secret would take money and give nothing."""
    chosen = stripe_settings(till)
    assert open_stripe(settings_for(tmp_path, None)) is None
    assert open_stripe(settings_for(tmp_path, None, stripe=chosen, features={"billing": False})) is None
    assert isinstance(open_stripe(settings_for(tmp_path, None, stripe=chosen)), Stripe)
    with pytest.raises(WrongSettings, match=r"stripe\.webhook_secret"):
        open_stripe(settings_for(tmp_path, None, stripe=chosen | {"webhook_secret": None}))


def test_parked_events_are_seen_in_health(store: RunningServer) -> None:
    with store.client() as client:
        assert client.get("/health/detailed").json()["parkedBillingEvents"] == 0
        store.instance.metrics.billing_events_parked.set(2)
        seen = client.get("/health/detailed")
        store.instance.metrics.billing_events_parked.set(0)
    assert (seen.status_code, seen.json()["status"], seen.json()["parkedBillingEvents"]) == (207, "degraded", 2)
