"""/billing: checkout and customer portal at Stripe, Stripe's webhook, and what the organization used today."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from pydantic import Field, StringConstraints
from starlette.requests import Request

from agentidp.auth.guard import ANY_TOKEN, GuardedRoute, caller_of, read
from agentidp.auth.instance import instance_of
from agentidp.billing import actions
from agentidp.billing.checkout import open_checkout, open_portal
from agentidp.billing.rules import NoCustomer, PortalFailed, SignatureInvalid, StripeFailed
from agentidp.billing.stripe import stripe_of
from agentidp.core import limits
from agentidp.core.caller import SYSTEM
from agentidp.core.clock import to_rfc3339
from agentidp.core.errors import Invalid, PayloadTooLarge, UnsupportedMediaType
from agentidp.core.http import header_values, media_type, read_body
from agentidp.core.operations import public, secured
from agentidp.core.resources import RequestBody, Resource, Uuid, absent
from agentidp.usage.queries import get_usage_today

router = APIRouter(prefix="/api/v1/billing", route_class=GuardedRoute)  # there only where plans are sold
usage_router = APIRouter(prefix="/api/v1/billing", route_class=GuardedRoute)

Address = Annotated[
    str,
    StringConstraints(max_length=limits.URL_CHARACTERS_MAX, pattern=r"^https?://[!#-;=?-\[\]_a-z{}~]+$"),
    Field(json_schema_extra={"format": "uri"}),
]
Link = Annotated[str, Field(json_schema_extra={"format": "uri"})]
Count = Annotated[int, Field(ge=0)]

_SIGNATURE = {
    "name": "Stripe-Signature",
    "in": "header",
    "required": True,
    "description": "HMAC signature from Stripe over the raw bytes of the body: `t=<timestamp>,v1=<signature>,…`.",
    "schema": {"type": "string", "examples": ["t=1492774577,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a05bd412fbc2a2b00000000"]},
}
_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "A Stripe event. It is verified as bytes, before it is read.",
    "additionalProperties": True,
    "examples": [{"id": "evt_1234567890", "object": "event", "type": "checkout.session.completed", "data": {"object": {"customer": "cus_abc123"}}}],
}
_WEBHOOK = public(SignatureInvalid, PayloadTooLarge, UnsupportedMediaType, is_limited=False)  # Stripe sends as fast as it likes
_WEBHOOK["openapi_extra"] |= {"parameters": [_SIGNATURE], "requestBody": {"required": True, "content": {"application/json": {"schema": _EVENT}}}}


class CheckoutRequest(RequestBody):
    """Both addresses default to the console; others are accepted below the issuer and the origins that the operator allows."""

    success_url: Address = Field(default_factory=absent, description="Where to lead after payment.")
    cancel_url: Address = Field(default_factory=absent, description="Where to lead when it is given up.")
    target_tier: Literal["pro", "enterprise"] = Field(default_factory=absent, description="Default: the next plan above the current one.")


_NOTHING = CheckoutRequest()


class CheckoutResponse(Resource):
    """A page of Stripe's."""

    checkout_url: Link


class PortalResponse(Resource):
    """A page of Stripe's, good for a few minutes."""

    portal_url: Link


class StripeWebhookResponse(Resource):
    """The event is kept; it takes effect a moment later."""

    received: bool


class UsageSummary(Resource):
    """What the organization used today."""

    organization_id: Uuid
    date: str = Field(description="The UTC day; everything begins again at midnight UTC.", json_schema_extra={"format": "date"}, examples=["2026-04-07"])
    tokens_issued: Count
    agents_registered: Count
    credentials_generated: Count
    api_calls_total: Count = Field(description="Authenticated calls, this one included.")


_CHECKOUT = secured("billing:write", StripeFailed, body=True, essential=True)
_CHECKOUT["openapi_extra"] |= {"x-without-organization": "400"}


@router.post("/checkout", status_code=201, tags=["Billing Checkout"], operation_id="createBillingCheckoutSession", **_CHECKOUT)
async def create_checkout(request: Request, body: Annotated[CheckoutRequest, Body()] = _NOTHING) -> CheckoutResponse:
    """Create a Stripe Checkout Session. While one is open, whoever asks for the same plan and addresses is given the same."""
    wanted = body.model_dump(exclude_unset=True)
    return CheckoutResponse(checkout_url=await open_checkout(instance_of(request), caller_of(request), **wanted))


@router.post("/webhook", tags=["Billing Webhook"], operation_id="handleStripeWebhook", **_WEBHOOK)
async def receive_event(request: Request) -> StripeWebhookResponse:
    """Receive an event from Stripe. It is verified and kept, and acknowledged when it is durable; an event that comes again has no effect."""
    raw_body = await read_body(request)
    if media_type(request) != "application/json":
        raise UnsupportedMediaType
    signatures = header_values(request, b"stripe-signature")
    if not signatures:
        raise Invalid("Missing Stripe-Signature header.")
    instance = instance_of(request)
    stripe = stripe_of(instance)
    event = stripe.verify(raw_body, ",".join(signatures), instance.clock())
    if await instance.database.write(actions.accept_event, SYSTEM, event, raw_body):
        stripe.nudge.give()
    return StripeWebhookResponse(received=True)


@router.get("/portal", tags=["Billing Checkout"], operation_id="openBillingPortal", **secured("billing:write", NoCustomer, PortalFailed, essential=True))
async def portal(request: Request) -> PortalResponse:
    """Open Stripe's customer portal: invoices, payment methods, and the way out of a plan."""
    return PortalResponse(portal_url=await open_portal(instance_of(request), caller_of(request)))


@usage_router.get("/usage", tags=["Usage"], operation_id="getBillingUsage", **secured(ANY_TOKEN, essential=True))
async def usage(request: Request) -> UsageSummary:
    """Get today's usage summary. Exact: it is counted in the transactions that it counts."""
    used = await read(request, get_usage_today)
    return UsageSummary(
        organization_id=caller_of(request).organization_id,
        date=to_rfc3339(used.ends_at - 1)[:10],
        tokens_issued=used.tokens,
        agents_registered=used.agents,
        credentials_generated=used.credentials,
        api_calls_total=used.calls,
    )
