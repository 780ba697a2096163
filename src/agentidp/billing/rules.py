"""What a subscription entitles to, which plan may be bought, and where a checkout may lead back to. Pure."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentidp.core import limits
from agentidp.core.errors import Invalid, InvalidFields, NotFound, Problem
from agentidp.core.plans import TIERS, PlanTier

# The events that are acted upon; any other is acknowledged and forgotten.
HONOURED: Final = frozenset(
    {
        "checkout.session.completed",
        "customer.subscription.created",
        "customer.subscription.updated",
        "customer.subscription.deleted",
        "invoice.paid",
        "invoice.payment_failed",
    }
)
_LIVE: Final = frozenset({"active", "trialing", "past_due"})


class StripeFailed(Problem):
    """Stripe refused, did not answer in time, or answered nonsense."""

    code = "STRIPE_ERROR"
    title = "Failed to create Stripe Checkout Session. Please try again."


class PortalFailed(StripeFailed):
    title = "Failed to open the Stripe customer portal. Please try again."


class SignatureInvalid(Invalid):
    code = "STRIPE_SIGNATURE_INVALID"
    title = "Webhook signature verification failed."


class NoCustomer(NotFound):
    title = "The organization has not bought anything yet."


@dataclass(frozen=True, slots=True)
class StripeEvent:
    """An event that Stripe signed. `created_at` is Stripe's second, in milliseconds; `customer_id` is whom it is about, None where it does not say."""

    event_id: str
    type: str
    created_at: int
    livemode: bool
    customer_id: str | None


@dataclass(frozen=True, slots=True)
class Subscription:
    """One subscription as Stripe has it right now. `created` is in seconds, as Stripe counts."""

    subscription_id: str
    status: str
    price_ids: tuple[str, ...]
    created: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What an organization has paid for. `grace_until` (milliseconds) is there while a payment is due."""

    plan: PlanTier = "free"
    subscription_id: str | None = None
    status: str | None = None
    grace_until: int | None = None


@dataclass(frozen=True, slots=True)
class Checkout:
    """What a checkout is made with. Its fingerprint tells apart two that differ in anything."""

    organization_id: str
    plan: PlanTier
    price_id: str
    success_url: str
    cancel_url: str

    @property
    def fingerprint(self) -> str:
        parts = [self.organization_id, self.plan, self.price_id, self.success_url, self.cancel_url]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Session:
    """An open checkout at Stripe. `expires_at` in milliseconds."""

    session_id: str
    url: str
    expires_at: int


def plan_for(subscription: Subscription, prices: Mapping[str, PlanTier], now: int, *, grace_until: int) -> PlanTier:
    """The plan that one subscription entitles to at this moment.

    `prices` says which price buys which plan; `grace_until` is when the patience with a payment that is due ends. What was never paid
    (`incomplete`), was given up (`unpaid`), has ended or is paused entitles to nothing.
    """
    bought = max((prices[price] for price in subscription.price_ids if price in prices), key=TIERS.index, default=TIERS[0])
    match subscription.status:
        case "active" | "trialing":
            return bought
        case "past_due":
            return bought if now < grace_until else TIERS[0]
        case _:
            return TIERS[0]


def standing_of(subscriptions: Sequence[Subscription], prices: Mapping[str, PlanTier], now: int, *, held: Standing, grace_ms: int) -> Standing:
    """What all subscriptions of a customer come to: the highest plan counts, among equal ones the newest.

    Grace begins when a payment is first seen to be due, and goes on (`held`) until the subscription is paid.
    """
    best = Standing()
    for one in sorted(subscriptions, key=lambda one: (one.created, one.subscription_id)):
        began = held.grace_until if held.subscription_id == one.subscription_id and held.grace_until is not None else now + grace_ms
        plan = plan_for(one, prices, now, grace_until=began)
        if TIERS.index(plan) >= TIERS.index(best.plan):
            best = Standing(plan, one.subscription_id, one.status, began if one.status == "past_due" else None)
    return best


def superseded(subscriptions: Sequence[Subscription], prices: Mapping[str, PlanTier], standing: Standing) -> list[str]:
    """The subscriptions to plans of ours that the customer would pay for beside the one that counts. None while that one is not paid itself."""
    if standing.status not in {"active", "trialing"} or standing.plan == TIERS[0]:
        return []
    ours = [one for one in subscriptions if one.status in _LIVE and any(price in prices for price in one.price_ids)]
    return [one.subscription_id for one in ours if one.subscription_id != standing.subscription_id]


def plan_to_buy(current: PlanTier, wanted: PlanTier | None, for_sale: Mapping[PlanTier, str]) -> PlanTier:
    """The plan wanted, or the next one up. Raises InvalidFields when it is not higher than the current one, or not for sale."""
    higher = [tier for tier in TIERS[TIERS.index(current) + 1 :] if tier in for_sale]
    if wanted is None:
        if not higher:
            raise InvalidFields([("targetTier", f"there is no plan above {current} to buy")])
        return higher[0]
    if TIERS.index(wanted) <= TIERS.index(current):
        raise InvalidFields([("targetTier", f"must be higher than the current plan, {current}")])
    if wanted not in for_sale:
        raise InvalidFields([("targetTier", "is not for sale here")])
    return wanted


def require_allowed(addresses: Mapping[str, str], origins: Sequence[str]) -> None:
    """Raises InvalidFields unless every address is below one of the origins (TH26: a checkout leads nobody elsewhere)."""
    wrong = [
        (field, "must be an address below an allowed origin")
        for field, address in addresses.items()
        if not any(address == origin or address.startswith((f"{origin}/", f"{origin}?", f"{origin}#")) for origin in origins)
    ]
    if wrong:
        raise InvalidFields(wrong)


def parse_event(value: object) -> StripeEvent:
    """The event in a signed body. Raises Invalid when it is none."""
    event: dict[str, Any] = value if isinstance(value, dict) else {}
    data = event.get("data")
    thing = data.get("object") if isinstance(data, dict) else None
    event_id, kind, created, livemode = (event.get(name) for name in ("id", "type", "created", "livemode"))
    known = isinstance(thing, dict) and _is_name(event_id) and _is_name(kind) and isinstance(livemode, bool)
    if event.get("object") != "event" or not known or type(created) is not int or not 0 <= created <= limits.TIMESTAMP_MS_MAX // 1000:
        raise Invalid("The body is not an event of Stripe.")
    assert isinstance(thing, dict)
    customer = thing.get("customer")
    if isinstance(customer, dict):  # expanded
        customer = customer.get("id")
    return StripeEvent(str(event_id), str(kind), created * 1000, livemode is True, str(customer) if _is_name(customer) else None)


def _is_name(value: object) -> bool:
    """Ids and types of Stripe: letters, digits and few signs; what is not cannot be stored and is not Stripe's."""
    return (
        isinstance(value, str) and 0 < len(value) <= limits.STRIPE_ID_CHARACTERS_MAX and value.isascii() and value.replace("_", "").replace(".", "").isalnum()
    )


def retry_ms(attempts: int) -> int:
    """The pause after that many failed attempts."""
    return int(limits.BILLING_RETRY_MS * 2 ** (attempts - 1))
