"""The fake Stripe's events at an endpoint that verifies them with the real library."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import stripe
from tests.fakes.fake_stripe import WEBHOOK_SECRET, FakeStripe
from tests.fakes.stripe_client import checkout
from tests.fakes.stripe_webhooks import event_body, signature


class Receiver:
    """A webhook endpoint that verifies with the library. `answers` are the statuses of the next requests, then 200."""

    def __init__(self, *secrets: str) -> None:
        self.secrets = secrets or (WEBHOOK_SECRET,)
        self.answers: list[int] = []
        self.events: list[Any] = []
        self.refused: list[str] = []

    def take(self, body: bytes, header: str | None) -> int:
        for secret in self.secrets:
            try:
                event = stripe.Webhook.construct_event(body, header, secret)
            except stripe.SignatureVerificationError as refusal:
                self.refused.append(str(refusal))
            else:
                self.events.append(event)
                return self.answers.pop(0) if self.answers else 200
        return 400

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.events]


@contextlib.contextmanager
def receiving(receiver: Receiver) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(receiver.take(body, self.headers["Stripe-Signature"]))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Tests read their own output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/webhook?of=test"
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_events_are_signed_and_retried(fake: FakeStripe, api: Any) -> None:
    receiver = Receiver()
    fake.pay(checkout(api, metadata={"name": "Ünïcode ✓"}).id)
    sent = list(fake.outbox)
    receiver.answers = [500, 302, 200, 500, 500, 500]
    with receiving(receiver) as url:
        deliveries = fake.deliver(url, pause_seconds=0.01)
    assert [(each.attempt, each.status) for each in deliveries[:6]] == [(1, 500), (2, 302), (3, 200), (1, 500), (2, 500), (3, 500)]
    assert receiver.ids == [sent[0]["id"]] * 3 + [sent[1]["id"]] * 3 + [event["id"] for event in sent[2:]]
    assert receiver.events[-1].data.object.metadata["name"] == "Ünïcode ✓"
    assert receiver.events[-1].type == "checkout.session.completed"
    assert not fake.outbox
    (nobody,) = fake.deliver(url, sent[:1], attempts=1)
    assert nobody.status is None


def test_events_come_in_any_order_and_number(fake: FakeStripe, api: Any) -> None:
    receiver, again, at_once = Receiver(), Receiver(), Receiver()
    fake.pay(checkout(api).id)
    events = fake.take_events()
    ids = [event["id"] for event in events]
    with receiving(receiver) as first, receiving(again) as second, receiving(at_once) as third:
        fake.deliver(first, events, copies=(1, 4), seed=7)
        fake.deliver(second, events, copies=(1, 4), seed=7)
        fake.deliver(third, events[::-1], copies=2, at_once=8)
    assert receiver.ids == again.ids
    assert list(dict.fromkeys(receiver.ids)) != ids
    assert set(receiver.ids) == set(ids)
    assert set(Counter(receiver.ids).values()) <= {1, 2, 3, 4}
    assert Counter(at_once.ids) == dict.fromkeys(ids, 2)


def test_signatures(fake: FakeStripe) -> None:
    event = fake.event("customer.created", {"object": "customer", "id": "cus_1", "name": "Zoë"}, api_version="2020-08-27")
    body, now = event_body(event), int(time.time())
    assert "Zoë".encode() in body
    assert stripe.Webhook.construct_event(body, signature(body, ["whsec_old", "whsec_new"], now), "whsec_new").api_version == "2020-08-27"
    assert signature(body, ["whsec_a"], now).startswith(stripe.WebhookSignature.generate_signature_header(body.decode(), "whsec_a", now))
    receiver = Receiver("whsec_new", "whsec_old")
    with receiving(receiver) as url:
        assert fake.send(url, event, secrets=["whsec_old"]).status == 200
        assert fake.send(url, event, secrets=["whsec_other", "whsec_new"]).status == 200
        assert fake.send(url, event, secrets=["whsec_other"]).status == 400
        assert fake.send(url, event, secrets=["whsec_new"], age_seconds=299).status == 200
        assert fake.send(url, event, secrets=["whsec_new"], age_seconds=400).status == 400
        assert fake.send(url, event, secrets=[]).status == 400
    assert any("Timestamp" in reason for reason in receiver.refused)
    assert fake.find("event", event["id"]) is None


def test_an_event_holds_the_object_of_its_moment(fake: FakeStripe, api: Any) -> None:
    subscription = fake.pay(checkout(api).id)
    fake.set_status(subscription, "unpaid")
    api.subscriptions.update(subscription["id"], {"metadata": {"late": "yes"}}, {"idempotency_key": "key-1"})
    created, *_, unpaid, updated = [event for event in fake.take_events() if event["type"].startswith("customer.subscription.")]
    assert [event["data"]["object"]["status"] for event in (created, unpaid, updated)] == ["active", "unpaid", "unpaid"]
    assert (unpaid["request"]["idempotency_key"], updated["request"]["idempotency_key"]) == (None, "key-1")
    assert api.events.retrieve(updated["id"]).data.previous_attributes["metadata"].to_dict() == {"organization_id": "organization-1"}
