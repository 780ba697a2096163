"""Events sent as Stripe sends them: signed, with retries; late, twice and in any order where a test wants it."""

import hashlib
import hmac
import http.client
import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.fakes.stripe_shapes import Json


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt: what the receiver answered. `status` is None where there was no answer."""

    event_id: str
    attempt: int
    status: int | None
    answer: str

    @property
    def is_accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def event_body(event: Json) -> bytes:
    """The bytes that are signed and sent: indented, and UTF-8 as it is."""
    return json.dumps(event, indent=2, ensure_ascii=False).encode()


def signature(body: bytes, secrets: Iterable[str], signed_at: int) -> str:
    """The value of `Stripe-Signature`: one v1 for each secret, and a v0 that nobody may trust, as Stripe adds for test events."""
    signed = f"{signed_at}.".encode() + body
    made = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={signed_at}", *(f"v1={each}" for each in made), f"v0={hashlib.sha256(signed).hexdigest()}"])


def send(url: str, event: Json, secrets: Iterable[str], signed_at: int, *, attempt: int = 1, timeout_seconds: float = 30) -> Delivery:
    """One POST. A redirect is not followed; it is an answer other than 2xx."""
    body, to = event_body(event), urlsplit(url)
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": signature(body, secrets, signed_at),
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        "Accept": "*/*; q=0.5, application/xml",
        "Cache-Control": "no-cache",
    }
    connection = http.client.HTTPConnection(to.hostname or "", to.port or 80, timeout=timeout_seconds)
    try:
        connection.request("POST", to.path + (f"?{to.query}" if to.query else ""), body, headers)
        response = connection.getresponse()
        return Delivery(event["id"], attempt, response.status, response.read().decode(errors="replace"))
    except (OSError, http.client.HTTPException) as failure:
        return Delivery(event["id"], attempt, None, f"{type(failure).__name__}: {failure}")
    finally:
        connection.close()


def deliver(
    url: str,
    events: Sequence[Json],
    secrets: Iterable[str],
    clock: Callable[[], int],
    *,
    copies: int | tuple[int, int] = 1,
    seed: int | None = None,
    at_once: int = 1,
    attempts: int = 3,
    pause_seconds: float = 0.05,
) -> list[Delivery]:
    """Sends each event `copies` times (or a number of times from that range), in the given order, or shuffled when there is a seed.

    `at_once` many are under way at a time. What is not answered with 2xx is sent again, signed anew, `attempts` times in all with a pause that
    doubles. Returns every attempt, those of one copy together and in order.
    """
    chance = random.Random(seed)
    fewest, most = (copies, copies) if isinstance(copies, int) else copies
    queue = [event for event in events for _ in range(chance.randint(fewest, most))]
    if seed is not None:
        chance.shuffle(queue)
    kept_secrets = tuple(secrets)

    def insist(event: Json) -> list[Delivery]:
        made: list[Delivery] = []
        while not made or not (made[-1].is_accepted or len(made) == attempts):
            if made:
                time.sleep(pause_seconds * 2 ** (len(made) - 1))
            made.append(send(url, event, kept_secrets, clock(), attempt=len(made) + 1))
        return made

    if at_once == 1:
        return [delivery for event in queue for delivery in insist(event)]
    with ThreadPoolExecutor(at_once) as pool:
        return [delivery for made in pool.map(insist, queue) for delivery in made]
