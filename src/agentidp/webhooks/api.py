"""/webhooks: where an organization is told what happens, and the log of what it was told. Standard Webhooks 1.0."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import AfterValidator, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from agentidp.auth.guard import GuardedRoute, read, write
from agentidp.auth.instance import instance_of
from agentidp.core import limits
from agentidp.core.addresses import ForbiddenUrl, check_url
from agentidp.core.errors import Invalid
from agentidp.core.http import NO_STORE
from agentidp.core.operations import secured
from agentidp.core.resources import ABSENT, LINE, UNIQUE_SCHEMA, InstantOut, Page, PageParameters, RequestBody, Resource, Unique, Uuid
from agentidp.db.paging import page_request
from agentidp.webhooks import actions, queries
from agentidp.webhooks.rules import (
    EVENT_TYPES,
    Delivery,
    DeliveryNotFound,
    DeliveryStatus,
    DeliveryWaiting,
    DisabledReason,
    EventType,
    TooManyWebhooks,
    WebhookNotActive,
    WebhookNotFound,
)

router = APIRouter(prefix="/api/v1/webhooks", tags=["Webhooks"], route_class=GuardedRoute)

_READ, _WRITE = "webhooks:read", "webhooks:write"
WebhookPath = Annotated[str, Path(alias="webhookId", description="The webhook's id.")]
DeliveryPath = Annotated[str, Path(alias="deliveryId", description="The delivery's id.")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=LINE), Field(examples=["ops channel"])]
Url = Annotated[
    str,
    StringConstraints(min_length=1, max_length=limits.URL_CHARACTERS_MAX),
    Field(description="https, port 443 or 8443, a public address; no fragment, no user name.", examples=["https://hooks.acme.example/agentidp"]),
]


class ForbiddenAddress(Invalid):
    title = "url: deliveries cannot be sent there."


class WebhookResource(Resource):
    """A webhook, without its secret."""

    webhook_id: Uuid
    organization_id: Uuid
    name: str
    url: str
    events: list[EventType]
    active: bool
    disabled_reason: DisabledReason | None = Field(
        description="by_request: by PATCH. gone: its receiver answered 410. failing: nothing was delivered for three days."
    )
    failure_count: int = Field(description="Attempts that failed since the last success, whatever they tried to deliver.")
    failing_since: InstantOut | None
    last_delivery_at: InstantOut | None = Field(description="The last success.")
    created_at: InstantOut
    updated_at: InstantOut


class WebhookWithSecret(WebhookResource):
    """A webhook with the secret that signs its deliveries: the only time it is shown."""

    signing_secret: str = Field(description="As libraries of Standard Webhooks take it. Store it now; it cannot be shown again.", examples=["whsec_…"])


def _sorted(events: list[EventType]) -> list[EventType]:
    return sorted(events)


Events = Annotated[list[EventType], Field(min_length=1, max_length=len(EVENT_TYPES), json_schema_extra=UNIQUE_SCHEMA), Unique, AfterValidator(_sorted)]


class WebhookRequest(RequestBody):
    """Where to send what."""

    name: Name
    url: Url
    events: Events = Field(examples=[["tier.upgraded", "tier.downgraded"]])


class WebhookPatch(RequestBody):
    """A JSON merge patch (RFC 7396). `active` false gives up what waits; true, or another url, lets the receiver begin anew."""

    name: Name = ABSENT
    url: Url = ABSENT
    events: Events = ABSENT
    active: bool = ABSENT


class AttemptResource(Resource):
    """One request to the receiver."""

    attempted_at: InstantOut
    latency_ms: int
    status_code: int | None = Field(description="What the receiver answered; null where it did not.")
    error: str | None = Field(
        description="Null for a success. status: the answer is no 2xx. dns, connect, tls, timeout …: there was none. blocked_…: it may not be sent there. "
        "expired, disabled: given up without another attempt."
    )


class DeliveryResource(Resource):
    """An event on its way to a webhook."""

    delivery_id: Uuid
    webhook_id: Uuid
    event_id: Uuid = Field(description="Sent as `webhook-id`, the same for each attempt: receivers drop what they have seen.")
    event_type: str
    status: DeliveryStatus = Field(description="failed: an attempt failed, another is due. dead_letter: given up.")
    attempts: int = Field(description="Since it was last asked for.")
    history: list[AttemptResource] = Field(description=f"The last {limits.WEBHOOK_HISTORY_MAX} attempts, the oldest first.")
    response_body: str | None = Field(description=f"The first {limits.WEBHOOK_RESPONSE_BYTES} bytes of the last answer.")
    next_attempt_at: InstantOut | None
    created_at: InstantOut
    completed_at: InstantOut | None


class DeliveryWithBody(DeliveryResource):
    """A delivery with what is sent."""

    body: str = Field(description="To the byte; signatures are of this.")


class DeliveryListParameters(PageParameters):
    """Filters."""

    status: DeliveryStatus | None = None


def _checked(request: Request, url: str) -> str:
    """Raises ForbiddenAddress for what the outgoing guard would refuse by looking at it; names are resolved when something is sent."""
    try:
        check_url(url, allow_loopback=instance_of(request).settings.webhooks.allow_loopback)
    except ForbiddenUrl as error:
        fields = [{"field": "url", "message": str(error)}]
        raise ForbiddenAddress(f"url: {error}", details={"reason": error.reason, "fields": fields}) from error
    return url


def _shown_once(response: Response, made: actions.WithSecret) -> WebhookWithSecret:
    response.headers.update(NO_STORE)
    return WebhookWithSecret.model_validate(asdict(made.webhook) | {"signing_secret": made.signing_secret})


def _delivery(delivery: Delivery) -> dict[str, Any]:
    return {name: value for name, value in asdict(delivery).items() if name not in {"organization_id", "seq", "asked_at"}}


def _without_body(delivery: Delivery) -> DeliveryResource:
    fields = _delivery(delivery)
    del fields["body"]
    return DeliveryResource.model_validate(fields)


@router.post("", status_code=201, operation_id="createWebhook", **secured(_WRITE, ForbiddenAddress, TooManyWebhooks, body=True))
async def create(request: Request, response: Response, body: WebhookRequest) -> WebhookWithSecret:
    """Create a webhook. It is told what happens from now on, signed with the secret in this answer."""
    sealer, url, events = instance_of(request).sealer, _checked(request, body.url), tuple(body.events)
    return _shown_once(response, await write(request, actions.create_webhook, sealer, name=body.name, url=url, events=events))


@router.get("", operation_id="listWebhooks", **secured(_READ))
async def list_(request: Request, parameters: Annotated[PageParameters, Query()]) -> Page[WebhookResource]:
    """List the organization's webhooks, newest first."""
    page = await read(request, queries.list_webhooks, page_request(parameters.limit, parameters.page, parameters.cursor))
    data = [WebhookResource.model_validate(queries.to_webhook(row)) for row in page.rows]
    return Page(data=data, page=page.page, limit=page.limit, total=page.total, next_cursor=page.next_cursor)


@router.get("/{webhookId}", operation_id="getWebhook", **secured(_READ, WebhookNotFound))
async def get(request: Request, webhook_id: WebhookPath) -> WebhookResource:
    """Look up one webhook."""
    return WebhookResource.model_validate(await read(request, queries.get_webhook, webhook_id))


@router.patch("/{webhookId}", operation_id="updateWebhook", **secured(_WRITE, WebhookNotFound, ForbiddenAddress, body=True))
async def update(request: Request, webhook_id: WebhookPath, body: WebhookPatch) -> WebhookResource:
    """Change a webhook, or switch it off and on again."""
    patch = body.model_dump(exclude_unset=True)
    if "url" in patch:
        _checked(request, patch["url"])
    if "events" in patch:
        patch["events"] = tuple(patch["events"])
    return WebhookResource.model_validate(await write(request, actions.update_webhook, webhook_id, patch))


@router.delete("/{webhookId}", status_code=204, operation_id="deleteWebhook", **secured(_WRITE, WebhookNotFound))
async def delete(request: Request, webhook_id: WebhookPath) -> Response:
    """Delete a webhook and the log of its deliveries, for good."""
    await write(request, actions.delete_webhook, webhook_id)
    return Response(status_code=204)


@router.post("/{webhookId}/rotate-secret", operation_id="rotateWebhookSecret", **secured(_WRITE, WebhookNotFound))
async def rotate(request: Request, response: Response, webhook_id: WebhookPath) -> WebhookWithSecret:
    """Make a new secret. For 24 hours deliveries are signed with the old one, too, so that nothing has to stop."""
    return _shown_once(response, await write(request, actions.rotate_secret, webhook_id, instance_of(request).sealer))


@router.post("/{webhookId}/test", status_code=202, operation_id="testWebhook", **secured(_WRITE, WebhookNotFound, WebhookNotActive))
async def test(request: Request, webhook_id: WebhookPath) -> DeliveryResource:
    """Send an event of type `webhook.test`. Look the delivery up to see what came of it."""
    return _without_body(await write(request, actions.send_test, webhook_id))


@router.get("/{webhookId}/deliveries", operation_id="listDeliveries", **secured(_READ, WebhookNotFound))
async def list_deliveries(request: Request, webhook_id: WebhookPath, parameters: Annotated[DeliveryListParameters, Query()]) -> Page[DeliveryResource]:
    """List what was sent to the webhook and what waits for it, newest first; kept for 30 days after it ended."""
    wanted = page_request(parameters.limit, parameters.page, parameters.cursor)
    page = await read(request, queries.list_deliveries, webhook_id, parameters.status, wanted)
    data = [_without_body(queries.to_delivery(row)) for row in page.rows]
    return Page(data=data, page=page.page, limit=page.limit, total=page.total, next_cursor=page.next_cursor)


@router.get("/{webhookId}/deliveries/{deliveryId}", operation_id="getDelivery", **secured(_READ, WebhookNotFound, DeliveryNotFound))
async def get_delivery(request: Request, webhook_id: WebhookPath, delivery_id: DeliveryPath) -> DeliveryWithBody:
    """Look up one delivery, with what is sent."""
    return DeliveryWithBody.model_validate(_delivery(await read(request, queries.get_delivery, webhook_id, delivery_id)))


@router.post(
    "/{webhookId}/deliveries/{deliveryId}/redeliver",
    status_code=202,
    operation_id="redeliver",
    **secured(_WRITE, WebhookNotFound, DeliveryNotFound, WebhookNotActive, DeliveryWaiting),
)
async def redeliver(request: Request, webhook_id: WebhookPath, delivery_id: DeliveryPath) -> DeliveryResource:
    """Send a delivery that was delivered or given up once more, under the same id; it has up to ten attempts again."""
    return _without_body(await write(request, actions.redeliver, webhook_id, delivery_id))
