"""The fake Stripe's objects against the real library: what it parses, finds, lists and changes, and what happens to them over time."""

import itertools
import time
from typing import Any

import httpx2
import pytest
import stripe
from tests.fakes.fake_stripe import FakeStripe
from tests.fakes.stripe_client import checkout

DAY_SECONDS = 24 * 3600


def kinds(fake: FakeStripe) -> list[str]:
    return [event["type"] for event in fake.take_events()]


def test_a_checkout_becomes_a_subscription(fake: FakeStripe, api: Any) -> None:
    customer = api.customers.create({"email": "pay@example.com", "metadata": {"organization_id": "organization-1"}})
    session = checkout(api, customer=customer.id, expand=["line_items", "customer"])
    assert (session.status, session.payment_status, session.livemode, session.subscription) == ("open", "unpaid", False, None)
    assert (session.amount_total, session.line_items.data[0].price.id, session.customer.email) == (4900, "price_pro", "pay@example.com")
    assert session.url.startswith(fake.url)
    fake.take_events()

    made = fake.pay(session.id)
    assert kinds(fake) == [
        "customer.subscription.created",
        "invoice.created",
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_succeeded",
        "checkout.session.completed",
    ]
    session = api.checkout.sessions.retrieve(session.id)
    assert (session.status, session.payment_status, session.subscription, session.url) == ("complete", "paid", made["id"], None)
    assert (session.client_reference_id, session.metadata["plan"]) == ("organization-1", "pro")
    subscription = api.subscriptions.retrieve(made["id"], {"expand": ["latest_invoice", "customer"]})
    assert (subscription.status, subscription.metadata["organization_id"], subscription.customer.id) == ("active", "organization-1", customer.id)
    assert subscription.latest_invoice.parent.subscription_details.subscription == subscription.id
    assert subscription.latest_invoice.amount_paid == 4900
    item = subscription["items"].data[0]
    assert (item.price.id, item.quantity) == ("price_pro", 1)
    assert item.current_period_start <= time.time() < item.current_period_end


def test_objects_have_the_fields_that_the_library_declares(fake: FakeStripe, api: Any) -> None:
    customer = api.customers.create()
    subscription = fake.pay(checkout(api, customer=customer.id).id)
    session = api.checkout.sessions.list({"expand": ["data.line_items"]}).data[0]
    item = api.subscriptions.retrieve(subscription["id"])["items"].data[0]
    portal = api.billing_portal.sessions.create({"customer": customer.id})
    metered = api.billing.meter_events.create({"event_name": "tokens", "payload": {"stripe_customer_id": customer.id, "value": "1"}})
    lists = [getattr(api, name).list().data[0] for name in ("customers", "products", "prices", "subscriptions", "invoices", "events")]
    for thing in [*lists, session, session.line_items.data[0], item, item.plan, portal, metered]:
        assert type(thing) is not stripe.StripeObject
        assert not set(thing.to_dict()) - set(type(thing).__annotations__), type(thing)


def test_the_checkout_of_a_newcomer_makes_the_customer(fake: FakeStripe, api: Any) -> None:
    session = checkout(api, customer_email="new@example.com")
    subscription = fake.pay(session.id)
    assert kinds(fake)[0] == "customer.created"
    assert api.customers.retrieve(subscription["customer"]).email == "new@example.com"
    with pytest.raises(Exception, match="complete"):
        fake.pay(session.id)


def test_a_metered_price_has_no_quantity(fake: FakeStripe, api: Any) -> None:
    fake.add_price("price_usage", unit_amount=1, meter="mtr_tokens")
    with pytest.raises(stripe.InvalidRequestError, match="metered"):
        checkout(api, line_items=[{"price": "price_usage", "quantity": 1}])
    with pytest.raises(stripe.InvalidRequestError) as missing:
        checkout(api, line_items=[{"price": "price_pro"}])
    assert missing.value.code == "parameter_missing"
    session = checkout(api, line_items=[{"price": "price_pro", "quantity": 2}, {"price": "price_usage"}])
    assert session.amount_total == 9800
    subscription = api.subscriptions.retrieve(fake.pay(session.id)["id"])
    assert [item.price.recurring.usage_type for item in subscription["items"].data] == ["licensed", "metered"]


def test_a_session_expires_by_call_and_by_time(fake: FakeStripe, api: Any) -> None:
    first, second = checkout(api), checkout(api)
    assert api.checkout.sessions.expire(first.id).status == "expired"
    with pytest.raises(stripe.InvalidRequestError, match="expired"):
        api.checkout.sessions.expire(first.id)
    fake.advance(DAY_SECONDS - 10)
    assert api.checkout.sessions.retrieve(second.id).status == "open"
    fake.advance(20)
    assert api.checkout.sessions.retrieve(second.id).status == "expired"
    assert kinds(fake) == ["checkout.session.expired"] * 2


def test_the_life_of_a_subscription(fake: FakeStripe, api: Any) -> None:
    subscription = fake.pay(checkout(api).id)
    fake.take_events()

    fake.fail_payment(subscription)
    assert api.subscriptions.retrieve(subscription["id"]).status == "past_due"
    assert api.invoices.list({"subscription": subscription["id"], "status": "open"}).data[0].attempt_count == 1
    assert kinds(fake) == ["invoice.created", "invoice.finalized", "invoice.payment_failed", "customer.subscription.updated"]

    fake.recover(subscription["id"])
    assert api.subscriptions.retrieve(subscription["id"]).status == "active"
    assert kinds(fake) == ["invoice.paid", "invoice.payment_succeeded", "customer.subscription.updated"]
    assert api.invoices.list({"status": "open"}).data == []
    fake.set_status(subscription, "active")
    assert kinds(fake) == []

    end = subscription["items"]["data"][0]["current_period_end"]
    fake.renew(subscription)
    assert api.subscriptions.retrieve(subscription["id"])["items"].data[0].current_period_start == end
    assert "invoice.paid" in kinds(fake)

    for status in ("trialing", "unpaid", "incomplete", "paused", "active"):
        fake.set_status(subscription, status)
        assert api.subscriptions.retrieve(subscription["id"]).status == status
    assert {event["data"]["previous_attributes"]["status"] for event in fake.take_events()} == {"active", "trialing", "unpaid", "incomplete", "paused"}

    assert api.subscriptions.cancel(subscription["id"]).status == "canceled"
    assert kinds(fake) == ["customer.subscription.deleted"]
    with pytest.raises(stripe.InvalidRequestError) as gone:
        api.subscriptions.cancel(subscription["id"])
    assert (gone.value.http_status, gone.value.code) == (404, "resource_missing")


def test_a_subscription_ends_with_its_period(fake: FakeStripe, api: Any) -> None:
    subscription = fake.pay(checkout(api).id)
    ending = api.subscriptions.update(subscription["id"], {"cancel_at_period_end": True})
    assert (ending.status, ending.cancel_at) == ("active", ending["items"].data[0].current_period_end)
    assert not api.subscriptions.update(subscription["id"], {"cancel_at_period_end": False}).cancel_at
    api.subscriptions.update(subscription["id"], {"cancel_at_period_end": True})
    fake.advance(31 * DAY_SECONDS)
    assert api.subscriptions.retrieve(subscription["id"]).status == "canceled"
    assert kinds(fake)[-1] == "customer.subscription.deleted"


def test_a_plan_is_changed_by_the_price_of_an_item(fake: FakeStripe, api: Any) -> None:
    subscription = fake.pay(checkout(api).id)
    item = subscription["items"]["data"][0]["id"]
    fake.take_events()
    changed = api.subscriptions.update(subscription["id"], {"items": [{"id": item, "price": "price_enterprise"}], "metadata": {"by": "sales"}})
    assert [(each.id, each.price.id) for each in changed["items"].data] == [(item, "price_enterprise")]
    assert changed.metadata.to_dict() == {"organization_id": "organization-1", "by": "sales"}
    (event,) = fake.take_events()
    assert event["data"]["previous_attributes"]["items"]["data"][0]["price"]["id"] == "price_pro"
    assert [each.id for each in api.subscriptions.list({"price": "price_enterprise"})] == [subscription["id"]]


def test_a_deleted_customer_stays_known_as_deleted(fake: FakeStripe, api: Any) -> None:
    customer = api.customers.create({"name": "Gone"})
    subscription = fake.pay(checkout(api, customer=customer.id).id)
    api.customers.delete(customer.id)
    assert api.customers.retrieve(customer.id).deleted is True
    assert customer.id not in [each.id for each in api.customers.list()]
    assert api.subscriptions.retrieve(subscription["id"]).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError) as missing:
        checkout(api, customer=customer.id)
    assert (missing.value.http_status, missing.value.code, missing.value.param) == (400, "resource_missing", "customer")
    fake.delete(subscription["id"])
    with pytest.raises(stripe.InvalidRequestError):
        api.subscriptions.retrieve(subscription["id"])


def test_customers_are_found_and_changed(api: Any) -> None:
    for name in ("a", "b"):
        api.customers.create({"email": f"{name}@example.com", "metadata": {"organization_id": name}})
    (found,) = api.customers.search({"query": "metadata['organization_id']:'b' AND email:'b@example.com'"})
    assert found.email == "b@example.com"
    assert [each.id for each in api.customers.list({"email": "b@example.com"})] == [found.id]
    changed = api.customers.update(found.id, {"metadata": {"organization_id": "", "plan": "pro"}})
    assert changed.metadata.to_dict() == {"plan": "pro"}
    assert api.customers.search({"query": "metadata['organization_id']:'b'"}).data == []


def test_prices_products_and_the_portal(fake: FakeStripe, api: Any) -> None:
    fake.add_price("price_team", unit_amount=900, currency="eur", lookup_key="team")
    (price,) = api.prices.list({"lookup_keys": ["team"], "expand": ["data.product"]})
    assert (price.id, price.unit_amount, price.product.name, price.recurring.interval) == ("price_team", 900, "Team", "month")
    assert api.products.retrieve(price.product.id).active
    customer = api.customers.create()
    portal = api.billing_portal.sessions.create({"customer": customer.id, "return_url": "https://shop.example/billing"})
    assert (portal.customer, portal.return_url) == (customer.id, "https://shop.example/billing")
    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        api.billing_portal.sessions.create({"customer": "cus_nobody"})


def test_a_list_comes_in_pages(api: Any) -> None:
    made = [api.customers.create({"name": str(number)}).id for number in range(7)]
    first = api.customers.list({"limit": 3})
    assert ([each.id for each in first], first.has_more) == (made[:3:-1], True)
    assert [each.id for each in first.auto_paging_iter()] == made[::-1]
    earlier = api.customers.list({"limit": 2, "ending_before": made[1]})
    assert ([each.id for each in earlier], earlier.has_more) == ([made[3], made[2]], True)
    assert [each.id for each in api.customers.list({"starting_after": made[1]})] == [made[0]]
    with pytest.raises(stripe.InvalidRequestError, match="limit"):
        api.customers.list({"limit": 101})
    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        api.customers.list({"starting_after": "cus_nobody"})


def test_lists_are_filtered(fake: FakeStripe, api: Any) -> None:
    customer = api.customers.create().id
    mine, other = checkout(api, customer=customer), checkout(api)
    subscription = fake.pay(mine.id)["id"]
    assert [each.id for each in api.checkout.sessions.list({"customer": customer})] == [mine.id]
    assert [each.id for each in api.checkout.sessions.list({"status": "open"})] == [other.id]
    assert [each.id for each in api.subscriptions.list({"customer": customer})] == [subscription]
    fake.cancel(subscription)
    assert api.subscriptions.list({"customer": customer}).data == []
    for status in ("all", "ended", "canceled"):
        assert [each.id for each in api.subscriptions.list({"status": status})] == [subscription]
    assert [each.type for each in api.events.list({"types": ["checkout.session.completed", "invoice.paid"]})] == ["checkout.session.completed", "invoice.paid"]
    event = api.events.list({"type": "customer.subscription.deleted"}).data[0]
    assert api.events.retrieve(event.id).data.object.status == "canceled"
    assert api.events.list({"created": {"gt": int(time.time()) + 60}}).data == []
    with pytest.raises(stripe.APIError, match="does not filter"):
        api.subscriptions.list({"collection_method": "send_invoice"})


def test_a_person_pays_and_cancels_in_the_browser(fake: FakeStripe, api: Any) -> None:
    customer = api.customers.create().id
    session = checkout(api, customer=customer)
    portal = api.billing_portal.sessions.create({"customer": customer, "return_url": "https://shop.example/?a=1&b=2"})
    api.billing.meter_events.create({"event_name": "tokens", "payload": {"stripe_customer_id": customer, "value": "12"}})
    changes = itertools.count()
    fake.on_change = lambda: next(changes)
    with httpx2.Client(trust_env=False) as browser:
        page = browser.get(session.url)
        assert (page.status_code, "49.00 USD" in page.text) == (200, True)
        paid = browser.post(f"{fake.url}/_control/pay/{session.id}")
        assert (paid.status_code, paid.headers["location"]) == (303, f"https://shop.example/done?session={session.id}")
        assert browser.post(f"{fake.url}/_control/pay/{session.id}").status_code == 400
        (subscription,) = fake.all("subscription")
        page = browser.get(portal.url)
        assert subscription["id"] in page.text
        assert "Reported: tokens 12" in page.text
        assert "?a=1&amp;b=2" in page.text
        assert browser.post(f"{fake.url}/_control/cancel/{subscription['id']}", headers={"referer": portal.url}).headers["location"] == portal.url
        assert subscription["status"] == "canceled"
        assert browser.post(f"{fake.url}/_control/__init__/x").status_code == 404
        assert browser.get(f"{fake.url}/pay/cs_test_none").status_code == 404
    assert next(changes) == 2
