"""One request to a receiver: signed, bounded, through the outgoing guard. Standard Webhooks 1.0, with the original's own signature beside it."""

import asyncio
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

from agentidp import __version__
from agentidp.core import limits
from agentidp.core.clock import Clock
from agentidp.core.outgoing import Blocked, Outgoing, Unreachable
from agentidp.webhooks.rules import Attempt, Delivery, parse_retry_after

_USER_AGENT = f"AgentIdP-Webhooks/{__version__}"


async def attempt(outgoing: Outgoing, clock: Clock, url: str, secrets: Sequence[str], delivery: Delivery) -> Attempt | None:
    """Send the delivery once. Whatever happens is an Attempt; None when there was no turn for it, since too many requests go there at once."""
    at, begun = clock(), asyncio.get_running_loop().time()
    try:
        headers, body = signed_headers(delivery, secrets, at), delivery.body.encode()
        answer = await outgoing.request("POST", url, headers=headers, body=body, tenant=delivery.organization_id)
    except Blocked as blocked:
        return Attempt(at, _ms(begun), error=f"blocked_{blocked.reason}"[:64])
    except Unreachable as error:
        return None if error.kind == "busy" else Attempt(at, _ms(begun), error=error.kind)
    text = answer.body[: limits.WEBHOOK_RESPONSE_BYTES].decode(errors="replace").replace("\x00", "\ufffd")
    retry_after = parse_retry_after(answer.headers.get("retry-after"))
    return Attempt(at, _ms(begun), answer.status, None if 200 <= answer.status < 300 else "status", text, retry_after)


def signed_headers(delivery: Delivery, secrets: Sequence[str], at: int) -> dict[str, str]:
    """With a signature for each secret, the newest first; `X-SentryAgent-Signature` is of the body alone, keyed with the newest secret as it was shown."""
    sent = datetime.fromtimestamp(at // 1000, UTC)
    return {
        "content-type": "application/json",
        "user-agent": _USER_AGENT,
        "webhook-id": delivery.event_id,
        "webhook-timestamp": str(at // 1000),
        "webhook-signature": " ".join(Webhook(secret).sign(delivery.event_id, sent, delivery.body) for secret in secrets),
        "x-sentryagent-signature": "sha256=" + hmac.new(secrets[0].encode(), delivery.body.encode(), hashlib.sha256).hexdigest(),
    }


def _ms(begun: float) -> int:
    return round((asyncio.get_running_loop().time() - begun) * 1000)
