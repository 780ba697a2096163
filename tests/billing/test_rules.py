"""Which plan a subscription entitles to, what may be bought, where a checkout may lead back to, and what an event is."""

from typing import Any

import pytest

from agentidp.billing.rules import (
    Standing,
    Subscription,
    parse_event,
    plan_for,
    plan_to_buy,
    require_allowed,
    retry_ms,
    standing_of,
    superseded,
)
from agentidp.core import limits
from agentidp.core.errors import Invalid, InvalidFields

PRICES: dict[str, Any] = {"price_pro": "pro", "price_enterprise": "enterprise"}
FOR_SALE: dict[Any, str] = {"pro": "price_pro", "enterprise": "price_enterprise"}
NOW = 1_000_000


def subscription(status: str, *prices: str, number: int = 1) -> Subscription:
    return Subscription(f"sub_{number}", status, prices or ("price_pro",), number)


@pytest.mark.parametrize(
    ("status", "prices", "grace_until", "plan"),
    [
        ("active", ["price_pro"], 0, "pro"),
        ("active", ["price_enterprise"], 0, "enterprise"),
        ("trialing", ["price_pro"], 0, "pro"),
        ("active", ["price_pro", "price_enterprise"], 0, "enterprise"),
        ("active", ["price_of_something_else", "price_pro"], 0, "pro"),
        ("active", ["price_of_something_else"], 0, "free"),
        ("active", [], 0, "free"),
        ("past_due", ["price_pro"], NOW + 1, "pro"),
        ("past_due", ["price_pro"], NOW, "free"),
        ("past_due", ["price_pro"], NOW - 1, "free"),
        *[
            (status, ["price_enterprise"], NOW + 1, "free")
            for status in ("incomplete", "incomplete_expired", "unpaid", "canceled", "paused", "", "ACTIVE", "new")
        ],
    ],
)
def test_a_subscription_entitles_to_a_plan(status: str, prices: list[str], grace_until: int, plan: str) -> None:
    assert plan_for(Subscription("sub_1", status, tuple(prices), 1), PRICES, NOW, grace_until=grace_until) == plan


@pytest.mark.parametrize(
    ("subscriptions", "held", "expected"),
    [
        ([], Standing(), Standing()),
        ([subscription("active")], Standing(), Standing("pro", "sub_1", "active")),
        # grace begins now, goes on as it began, ends; another subscription has a grace of its own
        ([subscription("past_due")], Standing(), Standing("pro", "sub_1", "past_due", NOW + 100)),
        ([subscription("past_due")], Standing("pro", "sub_1", "past_due", NOW + 7), Standing("pro", "sub_1", "past_due", NOW + 7)),
        ([subscription("past_due")], Standing("pro", "sub_1", "past_due", NOW), Standing("free", "sub_1", "past_due", NOW)),
        ([subscription("past_due")], Standing("pro", "sub_0", "past_due", NOW), Standing("pro", "sub_1", "past_due", NOW + 100)),
        ([subscription("active")], Standing("free", "sub_1", "past_due", NOW), Standing("pro", "sub_1", "active")),
        # the highest plan counts, then the newest subscription
        ([subscription("active"), subscription("active", "price_enterprise", number=0)], Standing(), Standing("enterprise", "sub_0", "active")),
        ([subscription("active", number=2), subscription("active")], Standing(), Standing("pro", "sub_2", "active")),
        ([subscription("canceled", number=2), subscription("active")], Standing(), Standing("pro", "sub_1", "active")),
        ([subscription("canceled", number=2), subscription("unpaid")], Standing(), Standing("free", "sub_2", "canceled")),
    ],
)
def test_all_subscriptions_come_to_one_standing(subscriptions: list[Subscription], held: Standing, expected: Standing) -> None:
    for order in (subscriptions, subscriptions[::-1]):
        assert standing_of(order, PRICES, NOW, held=held, grace_ms=100) == expected


def test_what_a_higher_plan_has_taken_the_place_of_ends() -> None:
    low, high = subscription("active"), subscription("active", "price_enterprise", number=2)
    others = [subscription("active", "price_of_something_else", number=3), subscription("canceled", number=4), subscription("incomplete", number=5)]
    assert superseded([low, high, *others], PRICES, Standing("enterprise", "sub_2", "active")) == ["sub_1"]
    assert superseded([low, high], PRICES, Standing("enterprise", "sub_2", "past_due", NOW)) == [], "not while the other is not paid"
    assert superseded([low], PRICES, Standing("free", "sub_9", "active")) == []


@pytest.mark.parametrize(
    ("current", "wanted", "for_sale", "plan"),
    [
        ("free", None, FOR_SALE, "pro"),
        ("pro", None, FOR_SALE, "enterprise"),
        ("free", "enterprise", FOR_SALE, "enterprise"),
        ("free", None, {"enterprise": "p"}, "enterprise"),
        ("enterprise", None, FOR_SALE, None),
        ("free", None, {}, None),
        ("pro", None, {"pro": "p"}, None),
        ("pro", "pro", FOR_SALE, None),
        ("enterprise", "pro", FOR_SALE, None),
        ("free", "free", FOR_SALE, None),
        ("free", "pro", {"enterprise": "p"}, None),
    ],
)
def test_only_a_higher_plan_that_is_for_sale_is_bought(current: Any, wanted: Any, for_sale: Any, plan: str | None) -> None:
    if plan is not None:
        assert plan_to_buy(current, wanted, for_sale) == plan
        return
    with pytest.raises(InvalidFields) as refused:
        plan_to_buy(current, wanted, for_sale)
    assert refused.value.details
    assert refused.value.details["fields"][0]["field"] == "targetTier"  # type: ignore[index]


ORIGINS = ("https://id.example.com", "http://127.0.0.1:3000")


@pytest.mark.parametrize(
    "address", ["https://id.example.com", "https://id.example.com/", "https://id.example.com/a?b#c", "http://127.0.0.1:3000?x", "http://127.0.0.1:3000#x"]
)
def test_addresses_below_an_allowed_origin_are_accepted(address: str) -> None:
    require_allowed({"successUrl": address}, ORIGINS)


ELSEWHERE = [
    "https://evil.example/",
    "http://id.example.com/",
    "https://id.example.com.evil.example/",
    "https://id.example.com:8443/",
    "https://id.example.com@evil.example/",
    "https://user:password@id.example.com/",
    "https://id.example.com\\@evil.example/",
    "https://id.example.comevil.example/",
    "https://ID.example.com/",
    "//id.example.com/",
    "/console",
    "javascript:alert(1)",
    "data:text/html,x",
    "http://127.0.0.1:30000/",
    "http://127.0.0.1/",
    "http://localhost:3000/",
    "",
]


@pytest.mark.parametrize("address", ELSEWHERE)
def test_addresses_elsewhere_are_refused(address: str) -> None:
    with pytest.raises(InvalidFields) as refused:
        require_allowed({"successUrl": f"{ORIGINS[0]}/fine", "cancelUrl": address}, ORIGINS)
    assert refused.value.details == {"fields": [{"field": "cancelUrl", "message": "must be an address below an allowed origin"}]}


EVENT: dict[str, Any] = {
    "id": "evt_1",
    "object": "event",
    "type": "invoice.paid",
    "created": 1_700_000_000,
    "livemode": False,
    "data": {"object": {"customer": "cus_1"}},
}


def test_an_event_is_read() -> None:
    event = parse_event(EVENT)
    assert (event.event_id, event.type, event.created_at, event.livemode, event.customer_id) == ("evt_1", "invoice.paid", 1_700_000_000_000, False, "cus_1")
    assert parse_event(EVENT | {"data": {"object": {"customer": {"id": "cus_2", "object": "customer"}}}}).customer_id == "cus_2"
    for nobody in (None, "", 1, "cus 1", "cus_\x00", "c" * 200, {}, []):
        assert parse_event(EVENT | {"data": {"object": {"customer": nobody}}}).customer_id is None


NO_EVENTS: list[Any] = [None, 1, "event", [], [EVENT], {}]
NO_EVENTS += [EVENT | {"object": value} for value in ("v2.core.event", None, "Event")]
NO_EVENTS += [EVENT | {name: value} for name in ("id", "type") for value in (None, "", 1, "a b", "x\x00", "\u00e9", "e" * 200, ["evt_1"])]
NO_EVENTS += [EVENT | {"created": value} for value in (None, -1, "1700000000", 1.5, True, 10**30)]
NO_EVENTS += [EVENT | {"livemode": value} for value in (None, 0, "false")]
NO_EVENTS += [EVENT | {"data": value} for value in (None, [], {}, {"object": None}, {"object": []}, "x")]
NO_EVENTS += [{key: value for key, value in EVENT.items() if key != missing} for missing in EVENT]


@pytest.mark.parametrize("value", NO_EVENTS, ids=lambda value: str(value)[:60])
def test_what_is_no_event_is_refused(value: Any) -> None:
    with pytest.raises(Invalid):
        parse_event(value)


def test_pauses_double() -> None:
    assert [retry_ms(attempts) for attempts in (1, 2, 3)] == [limits.BILLING_RETRY_MS * factor for factor in (1, 2, 4)]
    assert sum(retry_ms(attempts) for attempts in range(1, limits.BILLING_ATTEMPTS_MAX)) < 1000 * 1000
