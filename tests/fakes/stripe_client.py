"""The real library's client for the fake Stripe, and a checkout to begin with."""

import contextlib
from collections.abc import Iterator
from typing import Any

import stripe
from tests.fakes.fake_stripe import FakeStripe

CHECKOUT: dict[str, Any] = {
    "mode": "subscription",
    "line_items": [{"price": "price_pro", "quantity": 1}],
    "success_url": "https://shop.example/done?session={CHECKOUT_SESSION_ID}",
    "cancel_url": "https://shop.example/back",
    "client_reference_id": "organization-1",
    "metadata": {"plan": "pro"},
    "subscription_data": {"metadata": {"organization_id": "organization-1"}},
}


@contextlib.contextmanager
def client_of(fake: FakeStripe, api_key: str = "sk_test_fake", **options: Any) -> Iterator[Any]:
    """The library's client, without the retries that it makes by itself unless told otherwise."""
    http_client = stripe.RequestsClient(timeout=options.pop("timeout", 10))
    options.setdefault("max_network_retries", 0)
    yield stripe.StripeClient(api_key, base_addresses={"api": fake.url}, http_client=http_client, **options).v1
    http_client.close()


def checkout(api: Any, **other: Any) -> Any:
    return api.checkout.sessions.create(CHECKOUT | other)
