"""What the fake Stripe refuses, repeats or loses, as the real library meets it: parameters, keys, idempotency, meter events, trouble."""

import concurrent.futures
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import stripe
from tests.fakes.fake_stripe import FakeStripe, serving_stripe
from tests.fakes.stripe_client import CHECKOUT, checkout, client_of

DAY_SECONDS = 24 * 3600


def meter_event(api: Any, customer: str, value: str = "5", **other: Any) -> Any:
    return api.billing.meter_events.create({"event_name": "tokens", "payload": {"stripe_customer_id": customer, "value": value}} | other)


def test_parameters_are_held_against_the_library(fake: FakeStripe, api: Any) -> None:
    refused: dict[str, Callable[[], Any]] = {
        "parameter_unknown": lambda: api.customers.create({"e_mail": "x"}),
        "parameter_missing": lambda: api.billing.meter_events.create({"event_name": "tokens"}),
        "parameter_invalid_integer": lambda: checkout(api, line_items=[{"price": "price_pro", "quantity": "many"}]),
        "parameter_invalid_boolean": lambda: api.prices.list({"active": "perhaps"}),
        "parameter_invalid_object": lambda: checkout(api, subscription_data="x"),
        "parameter_invalid_array": lambda: checkout(api, line_items="price_pro"),
        "resource_missing": lambda: checkout(api, line_items=[{"price": "price_none", "quantity": 1}]),
        "url_invalid": lambda: checkout(api, success_url="done"),
    }
    for code, call in refused.items():
        with pytest.raises(stripe.InvalidRequestError) as raised:
            call()
        assert (raised.value.code, raised.value.http_status) == (code, 400)
        assert raised.value.request_id.startswith("req_")
    with pytest.raises(stripe.InvalidRequestError, match=r"subscription_data\[metadat\]"):
        checkout(api, subscription_data={"metadat": {"a": "b"}})
    with pytest.raises(stripe.InvalidRequestError, match="must be one of"):
        checkout(api, mode="subscribe")
    form = {"content-type": "application/x-www-form-urlencoded", "authorization": "Bearer sk_test_fake"}
    crooked = httpx2.post(f"{fake.url}/v1/customers", content="metadata=1&metadata[a]=2", headers=form, trust_env=False)
    assert (crooked.status_code, crooked.json()["error"]["param"]) == (400, "metadata[a]")


def test_who_has_no_key_is_refused(fake: FakeStripe) -> None:
    with client_of(fake, "sk_test_another") as api, pytest.raises(stripe.AuthenticationError, match="Invalid API Key provided: sk_test_"):
        api.customers.create()
    assert fake.all("customer") == []
    with httpx2.Client(base_url=fake.url, trust_env=False) as web:
        assert web.get("/v1/customers").status_code == 401
        assert web.get("/v1/customers", auth=("sk_test_fake", "")).status_code == 200
        assert web.get("/v1/customers", auth=("sk_live_fake", "")).status_code == 401
        versioned = web.get("/v1/customers", headers={"authorization": "Bearer sk_test_fake", "stripe-version": "2024-06-20"})
        assert versioned.headers["stripe-version"] == "2024-06-20"
        assert web.get("/v1/charges", headers={"authorization": "Bearer sk_test_fake"}).status_code == 404


def test_live_mode() -> None:
    with serving_stripe(FakeStripe(livemode=True)) as fake, client_of(fake, "sk_live_fake") as api:
        session = checkout(api)
        assert session.livemode
        assert session.id.startswith("cs_live_")
        fake.pay(session.id)
        assert all(event["livemode"] for event in fake.take_events())
        with client_of(fake) as test_api, pytest.raises(stripe.AuthenticationError):
            test_api.customers.list()


# Idempotency


def test_an_idempotency_key_gives_the_same_answer(fake: FakeStripe, api: Any) -> None:
    options = {"idempotency_key": "key-1"}
    first = api.customers.create({"name": "A"}, options)
    again = api.customers.create({"name": "A"}, options)
    assert again.id == first.id
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert again.last_response.headers["Original-Request"] == first.last_response.headers["Request-Id"]
    assert "Idempotent-Replayed" not in first.last_response.headers
    with pytest.raises(stripe.IdempotencyError, match="same parameters") as other:
        api.customers.create({"name": "B"}, options)
    assert other.value.http_status == 400
    with pytest.raises(stripe.IdempotencyError, match="same endpoint"):
        api.checkout.sessions.create(CHECKOUT, options)
    assert len(fake.all("customer")) == 1
    fake.advance(DAY_SECONDS + 1)
    assert api.customers.create({"name": "B"}, options).id != first.id


def test_keys_belong_to_the_account_not_to_the_api_key() -> None:
    with (
        serving_stripe(FakeStripe(api_keys=("sk_test_old", "rk_test_new"))) as fake,
        client_of(fake, "sk_test_old") as old,
        client_of(fake, "rk_test_new") as new,
    ):
        options = {"idempotency_key": "key-1"}
        assert old.customers.create({}, options).id == new.customers.create({}, options).id
        with serving_stripe(FakeStripe()) as another, client_of(another) as stranger:
            assert stranger.customers.create({}, options).id != fake.all("customer")[0]["id"]


def test_what_an_idempotency_key_keeps(fake: FakeStripe, api: Any) -> None:
    """The answer as it was then, and errors from inside the work; nothing of a request that failed validation."""
    with pytest.raises(stripe.InvalidRequestError):
        api.customers.create({"nam": "A"}, {"idempotency_key": "key-1"})
    assert api.customers.create({"name": "A"}, {"idempotency_key": "key-1"}).name == "A"
    stale = api.checkout.sessions.create(CHECKOUT, {"idempotency_key": "key-2"})
    fake.pay(stale.id)
    assert api.checkout.sessions.create(CHECKOUT, {"idempotency_key": "key-2"}).status == "open"
    assert api.checkout.sessions.retrieve(stale.id).status == "complete"
    fake.fail_next(500, is_saved=True)
    for _ in range(2):
        with pytest.raises(stripe.APIError) as failed:
            api.customers.create({}, {"idempotency_key": "key-3"})
        assert failed.value.http_status == 500
    assert failed.value.headers["Idempotent-Replayed"] == "true"


def test_a_key_in_use_is_a_conflict(fake: FakeStripe) -> None:
    fake.fail_next("hang", seconds=5)
    with concurrent.futures.ThreadPoolExecutor(1) as pool, client_of(fake) as first, client_of(fake) as second:
        hanging = pool.submit(first.customers.create, {}, {"idempotency_key": "key-1"})
        while not fake.requests:
            time.sleep(0.01)
        with pytest.raises(stripe.APIError) as conflict:
            second.customers.create({}, {"idempotency_key": "key-1"})
        assert (conflict.value.http_status, conflict.value.json_body["error"]["code"]) == (409, "idempotency_key_in_use")
        fake.stopping.set()
        assert hanging.result().id == second.customers.create({}, {"idempotency_key": "key-1"}).id


# Meter events


def test_a_meter_event_counts_once_in_a_day(fake: FakeStripe, api: Any) -> None:
    customer = api.customers.create().id
    event = meter_event(api, customer, identifier="organization-1:2026-11-22")
    assert (event.identifier, event.payload["value"]) == ("organization-1:2026-11-22", "5")
    with pytest.raises(stripe.InvalidRequestError, match="An event already exists with identifier organization-1:2026-11-22") as repeated:
        meter_event(api, customer, identifier="organization-1:2026-11-22")
    assert (repeated.value.http_status, repeated.value.code, repeated.value.headers["stripe-should-retry"]) == (400, None, "false")
    meter_event(api, customer, "2.5")
    meter_event(api, "cus_other", "100")
    assert str(fake.metered(customer, "tokens")) == "7.5"
    fake.advance(DAY_SECONDS + 1)
    meter_event(api, customer, identifier="organization-1:2026-11-22")
    assert str(fake.metered(customer, "tokens")) == "12.5"


def test_a_meter_event_that_stripe_refuses(fake: FakeStripe, api: Any) -> None:
    fake.meters = frozenset({"tokens"})
    for other in (
        {"timestamp": int(time.time()) - 36 * DAY_SECONDS},
        {"timestamp": int(time.time()) + 400},
        {"payload": {"stripe_customer_id": "cus_1", "value": "many"}},
        {"payload": {"value": "1"}},
        {"event_name": "calls"},
        {"identifier": "x" * 101},
    ):
        with pytest.raises(stripe.InvalidRequestError):
            meter_event(api, "cus_1", **other)
    assert fake.all("billing.meter_event") == []


def test_one_identifier_at_once_counts_once(fake: FakeStripe) -> None:
    def report(_: int) -> str:
        with client_of(fake) as api:
            try:
                return str(meter_event(api, "cus_1", identifier="same").identifier)
            except stripe.InvalidRequestError:
                return "refused"

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert Counter(pool.map(report, range(16))) == {"same": 1, "refused": 15}
    assert fake.metered("cus_1", "tokens") == 5


# Trouble


@pytest.mark.parametrize(
    ("trouble", "error"),
    [(500, stripe.APIError), (503, stripe.APIError), (429, stripe.RateLimitError), ("reset", stripe.APIConnectionError), ("malformed", stripe.APIError)],
)
@pytest.mark.parametrize("is_done", [False, True])
def test_trouble(fake: FakeStripe, api: Any, trouble: Any, error: type[Exception], is_done: bool) -> None:  # noqa: FBT001 - a parameter of the test
    fake.fail_next(trouble, times=2, path="/v1/customers", is_done=is_done)
    assert len(api.prices.list()) == 2
    for _ in range(2):
        with pytest.raises(error):
            api.customers.create({}, {"idempotency_key": "key-1"})
    assert len(fake.all("customer")) == int(is_done)
    made = api.customers.create({}, {"idempotency_key": "key-1"})
    assert ("Idempotent-Replayed" in made.last_response.headers) is is_done
    assert [each["id"] for each in fake.all("customer")] == [made.id]


def test_the_library_itself_gets_over_trouble(fake: FakeStripe) -> None:
    """It repeats a request with the same key: the work is done once, though the first answer was lost."""
    fake.fail_next("reset", is_done=True)
    with client_of(fake, max_network_retries=1) as api:
        made = api.customers.create({"name": "once"})
    assert [each["id"] for each in fake.all("customer")] == [made.id]
    assert len({request.idempotency_key for request in fake.requests}) == 1
    assert [(request.method, request.path, request.params) for request in fake.requests] == [("POST", "/v1/customers", {"name": "once"})] * 2


def test_an_answer_that_hangs(fake: FakeStripe, api: Any) -> None:
    fake.fail_next("hang", seconds=0.3)
    before = time.monotonic()
    api.customers.create()
    assert time.monotonic() - before > 0.3
    fake.fail_next("hang", seconds=30, is_done=True)
    with client_of(fake, timeout=0.3) as hurried, pytest.raises(stripe.APIConnectionError):
        hurried.customers.create()
    assert len(fake.all("customer")) == 2
    fake.fail_next(500, times=50)
    fake.heal()
    assert api.customers.create().id
