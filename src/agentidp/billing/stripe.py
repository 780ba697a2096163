"""Stripe, and the only file that imports its library: the calls that billing makes, and the signature on what Stripe sends (docs.stripe.com/webhooks).

The libraries are loaded when they are first called: they cost a third of a second. Its own asynchronous clients need httpx or aiohttp, which nothing else
here does, so it is given a small one on httpx2. Whatever goes wrong is a StripeFailed.
"""

import asyncio
import hmac
import importlib.util
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agentidp.auth.instance import Instance
from agentidp.billing.rules import Checkout, Session, SignatureInvalid, StripeEvent, StripeFailed, Subscription, parse_event
from agentidp.core import limits
from agentidp.core.caller import AuditEntry
from agentidp.core.config import Settings
from agentidp.core.errors import NotFound, WrongSettings
from agentidp.core.http import parse_json
from agentidp.core.plans import TIERS, PlanTier
from agentidp.ledger.nudge import Nudge

log = logging.getLogger(__name__)


def open_stripe(settings: Settings) -> "Stripe | None":
    """None where nothing is sold. Raises WrongSettings when the library or the webhook's secret is missing."""
    if settings.stripe.api_key is None or not settings.features.billing:
        return None
    if importlib.util.find_spec("stripe") is None:
        raise WrongSettings("stripe.api_key: needs Stripe's library: install agentidp[stripe]")
    if settings.stripe.webhook_secret is None:
        raise WrongSettings("stripe.webhook_secret: must be set with stripe.api_key, or nobody would learn that a plan was paid")
    return Stripe(settings)


def stripe_of(instance: Instance) -> "Stripe":
    """Raises NotFound where nothing is sold."""
    if instance.stripe is None:
        raise NotFound
    assert isinstance(instance.stripe, Stripe)
    return instance.stripe


class Stripe:
    """The account that the settings name. `nudge` tells the worker of this process that an event was accepted."""

    def __init__(self, settings: Settings) -> None:
        assert settings.stripe.api_key is not None
        self._settings, self._api_key = settings.stripe, settings.stripe.api_key
        for_sale = {tier: getattr(settings.stripe.prices, tier) for tier in TIERS[1:]}
        self.for_sale: dict[PlanTier, str] = {tier: price for tier, price in for_sale.items() if price is not None}
        self.plans: dict[str, PlanTier] = {price: tier for tier, price in self.for_sale.items()}
        self.meters = {meter: name for meter, name in (("tokensIssued", settings.stripe.meters.tokens), ("apiCalls", settings.stripe.meters.calls)) if name}
        self.nudge = Nudge()
        self._client: Any = None

    def verify(self, raw_body: bytes, signature_header: str, now: int) -> StripeEvent:
        """The event that Stripe signed. Raises SignatureInvalid, and Invalid when what is signed is no event."""
        secrets = [secret.get_secret_value() for secret in (self._settings.webhook_secret, self._settings.webhook_secret_previous) if secret is not None]
        if not is_signed(raw_body, signature_header, secrets, now // 1000):
            raise SignatureInvalid(audit=[AuditEntry("auth.failed", "failure", metadata={"reason": "Stripe's signature is not valid"})])
        return parse_event(parse_json(raw_body))

    async def create_customer(self, organization_id: str) -> str:
        """The customer who stands for the organization."""
        params = {"name": organization_id, "metadata": {"organization_id": organization_id}}
        return str((await self._ask("v1.customers.create", params, key=f"agentidp:customer:{organization_id}"))["id"])

    async def create_session(self, checkout: Checkout, customer_id: str, *, after: str | None) -> Session:
        """An open checkout: the same one for everybody who asks for the same. `after` is the session before it, which is over."""
        params = {
            "mode": "subscription",
            "customer": customer_id,
            "line_items": [{"price": checkout.price_id, "quantity": 1}],
            "success_url": checkout.success_url,
            "cancel_url": checkout.cancel_url,
            "client_reference_id": checkout.organization_id,
        }
        made = await self._ask("v1.checkout.sessions.create", params, key=f"agentidp:checkout:{customer_id}:{checkout.fingerprint}:{after or ''}")
        return Session(str(made["id"]), str(made["url"]), int(made["expires_at"]) * 1000)

    async def expire_session(self, session_id: str) -> None:
        """Does nothing to one that is paid or over."""
        await self._ask("v1.checkout.sessions.expire", None, session_id, tolerated=frozenset({400, 404}))

    async def create_portal(self, customer_id: str, return_url: str) -> str:
        """Where the customer sees invoices and changes or ends what was bought."""
        return str((await self._ask("v1.billing_portal.sessions.create", {"customer": customer_id, "return_url": return_url}))["url"])

    async def list_subscriptions(self, customer_id: str) -> list[Subscription]:
        """All of the customer's that Stripe still shows, ended ones included."""
        found = await self._ask("v1.subscriptions.list", {"customer": customer_id, "status": "all", "limit": 100})
        return [
            Subscription(str(one["id"]), str(one["status"]), tuple(str(item["price"]["id"]) for item in one["items"]["data"]), int(one["created"]))
            for one in found["data"]
        ]

    async def cancel_subscription(self, subscription_id: str) -> None:
        """At once, with the unused rest credited. Does nothing to one that has ended."""
        await self._ask("v1.subscriptions.cancel", {"prorate": True}, subscription_id, tolerated=frozenset({400, 404}))

    async def report_usage(self, event_name: str, customer_id: str, count: int, *, identifier: str, seconds: int) -> None:
        """Count once, however often it is called with that identifier within a day."""
        payload = {"stripe_customer_id": customer_id, "value": str(count)}
        params = {"event_name": event_name, "payload": payload, "identifier": identifier, "timestamp": seconds}
        await self._ask("v1.billing.meter_events.create", params, tolerates=lambda error: "already exists with identifier" in (error.user_message or ""))

    async def close(self) -> None:
        if self._client is not None:
            await self._client[1].close_async()
            self._client = None

    async def _ask(
        self,
        operation: str,
        params: Mapping[str, Any] | None,
        *path: str,
        key: str | None = None,
        tolerated: frozenset[int] = frozenset(),
        tolerates: Callable[[Any], bool] = lambda _: False,
    ) -> Mapping[str, Any]:
        """One call of the library, by its name there. Raises StripeFailed."""
        import httpx2  # noqa: PLC0415 - see above
        import stripe  # noqa: PLC0415

        try:
            async with asyncio.timeout(limits.STRIPE_SECONDS_MAX):
                return await self._with_keys(self._operation(stripe, operation), params, path, key)
        except stripe.StripeError as error:
            if error.http_status in tolerated or tolerates(error):
                return {}
            log.warning("Stripe failed", extra={"operation": operation, "error": type(error).__name__, "status": error.http_status, "code": error.code})
            raise StripeFailed from error
        except (TimeoutError, httpx2.HTTPError, LookupError, TypeError, ValueError) as error:  # late, or an answer that is not what it should be
            log.warning("Stripe failed", extra={"operation": operation, "error": type(error).__name__})
            raise StripeFailed from error

    async def _with_keys(self, call: Callable[..., Awaitable[Any]], params: Any, path: Sequence[str], key: str | None) -> Mapping[str, Any]:
        """Stripe repeats a server error for a day to whoever repeats the key: when it says so, the next key is tried, the same one for everybody."""
        import stripe  # noqa: PLC0415 - as above

        for number in range(limits.STRIPE_KEYS_MAX):
            options = {"idempotency_key": f"{key}:{number}" if number else key} if key is not None else {}
            try:
                answer: Mapping[str, Any] = (await call(*path, params=params, options=options)).to_dict()
            except stripe.StripeError as error:
                replayed = {name.lower(): value for name, value in (error.headers or {}).items()}.get("idempotent-replayed") == "true"
                if key is None or not replayed or (error.http_status or 0) < 500 or number == limits.STRIPE_KEYS_MAX - 1:
                    raise
            else:
                return answer
        raise AssertionError("the loop returns or raises")

    def _operation(self, stripe: Any, name: str) -> Callable[..., Awaitable[Any]]:
        if self._client is None:
            stripe.enable_telemetry = False
            http_client = _http_client(stripe, self._settings.api_base)
            addresses = dict.fromkeys(("api", "files", "connect", "meter_events"), self._settings.api_base)
            client = stripe.StripeClient(
                self._api_key.get_secret_value(), base_addresses=addresses, http_client=http_client, max_network_retries=limits.STRIPE_REPEATS_MAX
            )
            self._client = client, http_client
        found = self._client[0]
        for part in f"{name}_async".split("."):
            found = getattr(found, part)
        call: Callable[..., Awaitable[Any]] = found
        return call


def is_signed(raw_body: bytes, header: str, secrets: Sequence[str], now_seconds: int) -> bool:
    """Whether the header, `t=<seconds>,v1=<hex>,…`, holds a signature over the raw bytes by one of the secrets, made at about this time.

    Every pair is compared, in constant time, whichever is right.
    """
    if len(header) > limits.STRIPE_SIGNATURE_CHARACTERS_MAX or not header.isascii():
        return False
    pairs = [part.strip().partition("=")[::2] for part in header.split(",")]
    times = [value for name, value in pairs if name == "t"]
    presented = [value for name, value in pairs if name == "v1"]
    if len(times) != 1 or not times[0].isdecimal() or len(times[0]) > 12 or abs(now_seconds - int(times[0])) > limits.STRIPE_SIGNATURE_SECONDS_MAX:
        return False
    signed = times[0].encode() + b"." + raw_body
    expected = [hmac.new(secret.encode(), signed, "sha256").hexdigest() for secret in secrets]
    return any([hmac.compare_digest(one, other) for one in expected for other in presented])  # noqa: C419 - a list, so that every pair is compared


def _http_client(stripe: Any, api_base: str) -> Any:
    """The library's way out, on httpx2: one bounded answer a request, no redirects."""
    import httpx2  # noqa: PLC0415 - as above

    class Httpx2Client(stripe.HTTPClient):  # type: ignore[misc] # the library is loaded late
        name = "httpx2"

        def __init__(self) -> None:
            super().__init__()
            self._client = httpx2.AsyncClient(timeout=limits.STRIPE_SECONDS_MAX, trust_env=api_base.startswith("https:"))

        async def request_async(self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None) -> tuple[bytes, int, Mapping[str, str]]:
            answer = bytearray()
            try:
                async with self._client.stream(method, url, headers=dict(headers), content=post_data) as response:
                    async for chunk in response.aiter_bytes():
                        answer += chunk
                        if len(answer) > limits.STRIPE_ANSWER_BYTES_MAX:
                            raise stripe.APIConnectionError("the answer is too long", should_retry=False)
            except httpx2.HTTPError as error:
                raise stripe.APIConnectionError(type(error).__name__, should_retry=True) from error
            return bytes(answer), response.status_code, response.headers

        def sleep_async(self, secs: float) -> Awaitable[None]:
            return asyncio.sleep(secs)

        async def close_async(self) -> None:
            await self._client.aclose()

    return Httpx2Client()
