"""Stripe's webhook: every form that a signature can have, bodies that are no events, and the same event again."""

import hashlib
import hmac
import json
import time
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from tests.billing.conftest import OTHER_SECRET
from tests.fakes.fake_stripe import WEBHOOK_SECRET, FakeStripe
from tests.fakes.stripe_webhooks import event_body, signature
from tests.serving import RunningServer

from agentidp.core import limits
from agentidp.core.caller import SYSTEM
from agentidp.db.schema import billing_events
from agentidp.db.unit import Tx

WEBHOOK = "/api/v1/billing/webhook"


def sign(secret: str, at: int, body: bytes) -> str:
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()


# {now} and {good} are the right time and signature; {at_…} are whole headers signed at another time.
SIGNED = {
    "as Stripe does": "t={now},v1={good}",
    "with a v0 beside it": "t={now},v1={good},v0={wrong}",
    "a wrong v1 before the right one": "t={now},v1={wrong},v1={good}",
    "the right v1 before a wrong one": "t={now},v1={good},v1={wrong}",
    "the signature before the time": "v1={good},t={now}",
    "white space after the comma": "t={now}, v1={good}",
    "with the secret before this one": "t={now},v1={previous}",
    "299 seconds old": "{at_minus_299}",
    "299 seconds ahead": "{at_plus_299}",
}
FORGED = {
    "empty": "",
    "nothing but the time": "t={now}",
    "nothing but the signature": "v1={good}",
    "no time": "t=,v1={good}",
    "no signature": "t={now},v1=",
    "a time that is none": "t=now,v1={good}",
    "a negative time": "t=-{now},v1={good}",
    "a fraction": "t={now}.0,v1={good}",
    "a time of 400 digits": f"t={'9' * 400},v1={{good}}",
    "two times": "t={now},t={now},v1={good}",
    "only v0": "t={now},v0={good}",
    "only v2": "t={now},v2={good}",
    "V1": "t={now},V1={good}",
    "upper-case hex": "t={now},v1={upper}",
    "a character short": "t={now},v1={good:.63}",
    "a character more": "t={now},v1={good}0",
    "in quotes": 't={now},v1="{good}"',
    "another secret": "t={now},v1={another}",
    "no secret": "t={now},v1={empty}",
    "signed without its time": "t={now},v1={timeless}",
    "signed at another time": "t=1{now:.9},v1={good}",
    "301 seconds old": "{at_minus_302}",
    "301 seconds ahead": "{at_plus_302}",
    "beyond ASCII": "t={now},v1={good}\xff",
    "3000 characters": "t={now},v1={good}," + "v1=0," * 600,
    "semicolons": "t={now};v1={good}",
    "text": "signature",
}


def written(template: str, body: bytes) -> str:
    """The header, for the body, now."""
    now = int(time.time())
    ages = {"at_minus_299": -299, "at_plus_299": 299, "at_minus_302": -302, "at_plus_302": 302}
    return template.format(
        now=str(now),
        good=sign(WEBHOOK_SECRET, now, body),
        upper=sign(WEBHOOK_SECRET, now, body).upper(),
        previous=sign(OTHER_SECRET, now, body),
        another=sign("whsec_another", now, body),
        empty=sign("", now, body),
        timeless=hmac.new(WEBHOOK_SECRET.encode(), body, hashlib.sha256).hexdigest(),
        wrong="0" * 64,
        **{name: f"t={now + age},v1={sign(WEBHOOK_SECRET, now + age, body)}" for name, age in ages.items()},
    )


def post(server: RunningServer, body: bytes, signature_header: str | None, **headers: str) -> httpx2.Response:
    sent = {"Content-Type": "application/json; charset=utf-8"} | headers
    raw = {name.encode(): value.encode("latin-1") for name, value in sent.items()}
    if signature_header is not None:
        raw[b"Stripe-Signature"] = signature_header.encode("latin-1")
    with server.client() as client:
        return client.post(WEBHOOK, content=body, headers=raw)


def kept(server: RunningServer, event: Any) -> int:
    def find(tx: Tx) -> int:
        return len(tx.all(sa.select(billing_events).where(billing_events.c.event_id == event["id"])))

    return int(server.read(find, SYSTEM))


def an_event(till: FakeStripe) -> Any:
    return till.event("invoice.paid", {"object": "invoice", "customer": "cus_nobody", "note": "\u00fc \U0001f600"})


@pytest.mark.parametrize("how", SIGNED)
def test_what_stripe_signed_is_kept(store: RunningServer, till: FakeStripe, how: str) -> None:
    event = an_event(till)
    body = event_body(event)
    answer = post(store, body, written(SIGNED[how], body))
    assert (answer.status_code, answer.json(), kept(store, event)) == (200, {"received": True}, 1)


@pytest.mark.parametrize("how", FORGED)
def test_what_nobody_signed_is_refused(store: RunningServer, till: FakeStripe, how: str) -> None:
    event = an_event(till)
    body = event_body(event)
    answer = post(store, body, written(FORGED[how], body))
    assert (answer.status_code, answer.json()) == (400, {"code": "STRIPE_SIGNATURE_INVALID", "message": "Webhook signature verification failed."})
    assert kept(store, event) == 0


def test_without_a_signature_it_is_said_so(store: RunningServer, till: FakeStripe) -> None:
    answer = post(store, event_body(an_event(till)), None)
    assert (answer.status_code, answer.json()) == (400, {"code": "VALIDATION_ERROR", "message": "Missing Stripe-Signature header."})


def test_the_bytes_count_not_what_they_mean(store: RunningServer, till: FakeStripe) -> None:
    event, now = an_event(till), int(time.time())
    body = event_body(event)
    right = f"t={now},v1={sign(WEBHOOK_SECRET, now, body)}"
    for other in (json.dumps(event).encode(), body + b"\n", body[:-1], body.replace(b"invoice.paid", b"invoice.void"), b""):
        assert post(store, other, right).json()["code"] == "STRIPE_SIGNATURE_INVALID"
    assert kept(store, event) == 0
    assert post(store, body, right).status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{}", b"{", b"x", b'{"id":"evt_1"}', b'{"id":"a","id":"b"}', b"\xff", b"[" * 100, b'{"object":"event","id":"evt_\\u0000"}']
)
def test_signed_bodies_that_are_no_events_are_refused(store: RunningServer, body: bytes) -> None:
    now = int(time.time())
    answer = post(store, body, f"t={now},v1={sign(WEBHOOK_SECRET, now, body)}")
    assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR")


def test_other_forms_and_sizes_are_refused_before_they_are_verified(store: RunningServer, till: FakeStripe) -> None:
    body, now = event_body(an_event(till)), int(time.time())
    right = f"t={now},v1={sign(WEBHOOK_SECRET, now, body)}"
    for headers in ({"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}):
        assert post(store, body, right, **headers).status_code == 415
    assert post(store, b" " * (limits.BODY_BYTES_MAX + 1), right).status_code == 413


def test_a_signature_is_as_good_late_as_it_is_early_by_the_servers_clock(store: RunningServer, till: FakeStripe) -> None:
    event = an_event(till)
    body = event_body(event)
    right = signature(body, [WEBHOOK_SECRET], int(time.time()))
    with store.clock.ahead(seconds=302):
        assert post(store, body, right).json()["code"] == "STRIPE_SIGNATURE_INVALID"
    assert post(store, body, right).status_code == 200
    assert post(store, body, right).status_code == 200, "again, with no effect"
    assert kept(store, event) == 1
