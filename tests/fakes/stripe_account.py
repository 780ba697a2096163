"""What happens in an account at the fake Stripe: its objects, its clock, the life of a subscription and the events that tell of it. No HTTP."""

import threading
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.fakes import stripe_shapes as shapes
from tests.fakes.stripe_shapes import Json

STATUSES = ("incomplete", "incomplete_expired", "trialing", "active", "past_due", "unpaid", "canceled", "paused")


class Account:
    """The state behind the API. `clock` gives seconds since the epoch; objects and their ids are handed in and out alike.

    Two prices are there from the start, `price_pro` and `price_enterprise`; `add_price` adds or replaces others.
    """

    def __init__(self, *, livemode: bool, clock: Callable[[], float]) -> None:
        self.livemode, self.url = livemode, ""
        self.api_version = shapes.API_VERSION  # that of the events, whatever version a request asks for
        self.lock = threading.RLock()
        self.objects: dict[str, dict[str, Json]] = {}
        self.outbox: deque[Json] = deque()  # events that no webhook has been told of
        self.meters: frozenset[str] | None = None  # the event names that there are meters for; None: any
        self.request: Json = {"id": None, "idempotency_key": None}  # what the events of this moment were caused by
        self._clock, self._shift_seconds = clock, 0.0
        self._line_items: dict[str, list[Json]] = {}
        self._subscription_data: dict[str, Json] = {}
        self.add_price("price_pro", unit_amount=4900)
        self.add_price("price_enterprise", unit_amount=49900)

    @property
    def now(self) -> int:
        return int(self._clock() + self._shift_seconds)

    def advance(self, seconds: float) -> None:
        """Time passes: sessions expire, periods end."""
        with self.lock:
            self._shift_seconds += seconds
            self.keep_time()

    def keep_time(self) -> None:
        with self.lock:
            for session in self.all("checkout.session"):
                if session["status"] == "open" and session["expires_at"] <= self.now:
                    self.expire(session)
            for subscription in self.all("subscription"):
                if subscription["cancel_at_period_end"] and not subscription["ended_at"] and subscription["cancel_at"] <= self.now:
                    self.cancel(subscription)

    # Objects

    def all(self, kind: str) -> list[Json]:
        """The objects of a kind, oldest first."""
        return list(self.objects.get(kind, {}).values())

    def find(self, kind: str, what: str | Json) -> Json | None:
        return self.objects.get(kind, {}).get(what if isinstance(what, str) else what["id"])

    def get(self, kind: str, what: str | Json, *, param: str = "id") -> Json:
        if (found := self.find(kind, what)) is None:
            raise shapes.missing(kind, what if isinstance(what, str) else what["id"], param)
        return found

    def add(self, thing: Json, key: str | None = None) -> Json:
        self.objects.setdefault(thing["object"], {})[key or thing["id"]] = thing
        return thing

    def add_price(
        self, price_id: str, *, unit_amount: int = 0, currency: str = "usd", product: str | None = None, meter: str | None = None, lookup_key: str | None = None
    ) -> Json:
        """A monthly price with a product of its own; with `meter` (an id) a metered one."""
        product = product or price_id.replace("price", "prod", 1)
        if self.find("product", product) is None:
            self.add(shapes.product(product, product.removeprefix("prod_").title(), self.now, livemode=self.livemode))
        made = shapes.price(price_id, product, self.now, livemode=self.livemode, unit_amount=unit_amount, currency=currency, meter=meter, lookup_key=lookup_key)
        return self.add(made)

    def delete(self, what: str | Json) -> None:
        """A customer as Stripe deletes one, with the subscriptions; any other object is gone without a word, as cleared test data."""
        with self.lock:
            object_id = what if isinstance(what, str) else what["id"]
            if (customer := self.find("customer", object_id)) and "deleted" not in customer:
                for subscription in self.all("subscription"):
                    if subscription["customer"] == object_id and not subscription["ended_at"]:
                        self.cancel(subscription)
                self.emit("customer.deleted", customer)
                self.add({"id": object_id, "object": "customer", "deleted": True})
                return
            for kind in self.objects.values():
                kind.pop(object_id, None)

    # Events

    def event(self, kind: str, thing: Json, *, previous: Json | None = None, **other: Any) -> Json:
        """An event as Stripe would send it, with a copy of the object as it is now; nobody hears of it, and Stripe does not know it."""
        data = {"object": shapes.copied(thing)} | ({"previous_attributes": previous} if previous is not None else {})
        built = {
            "id": shapes.new_id("evt"),
            "object": "event",
            "api_version": self.api_version,
            "created": self.now,
            "data": data,
            "livemode": self.livemode,
            "pending_webhooks": 1,
            "request": dict(self.request),
            "type": kind,
        }
        return built | other

    def emit(self, kind: str, thing: Json, *, previous: Json | None = None) -> Json:
        """An event that has happened: it is in Stripe's list and waits in the outbox."""
        with self.lock:
            event = self.add(self.event(kind, thing, previous=previous))
            self.outbox.append(event)
            return event

    def take_events(self) -> list[Json]:
        """The events of the outbox, which is empty then: for a test that sends them itself, later or never."""
        with self.lock:
            events = list(self.outbox)
            self.outbox.clear()
            return events

    # Checkout

    def open_session(self, params: Json, lines: list[Json]) -> Json:
        amount, currency = sum(line["amount_total"] for line in lines), lines[0]["currency"]
        session = shapes.checkout_session(params, self.now, livemode=self.livemode, amount=amount, currency=currency, base_url=self.url)
        self._line_items[session["id"]] = lines
        self._subscription_data[session["id"]] = params.get("subscription_data", {})
        return self.add(session)

    def line_items(self, session: Json) -> list[Json]:
        return self._line_items[session["id"]]

    def expire(self, what: str | Json) -> Json:
        with self.lock:
            session = self.get("checkout.session", what)
            if session["status"] != "open":
                raise shapes.wrong(f'Only Checkout Sessions with a status in ["open"] can be expired. This Session has a status of {session["status"]}.')
            session |= {"status": "expired", "url": None}
            self.emit("checkout.session.expired", session)
            return session

    def pay(self, what: str | Json) -> Json:
        """Somebody completes the checkout: the subscription is there and paid. Returns it; the events are in the outbox."""
        with self.lock:
            self.keep_time()
            session = self.get("checkout.session", what)
            if session["status"] != "open":
                raise shapes.wrong(f"This Checkout Session is {session['status']}.")
            if session["customer"] is None:
                customer = self.add(shapes.customer({"email": session["customer_email"] or "payer@example.com"}, self.now, livemode=self.livemode))
                self.emit("customer.created", customer)
                session["customer"] = customer["id"]
            asked = self._subscription_data[session["id"]]
            subscription = self.add(
                shapes.subscription(
                    session["customer"],
                    self.line_items(session),
                    self.now,
                    livemode=self.livemode,
                    metadata=dict(asked.get("metadata", {})),
                    trial_days=asked.get("trial_period_days", 0),
                )
            )
            is_trial = subscription["status"] == "trialing"
            invoice = self.add(shapes.invoice(subscription, self.now, reason="subscription_create", amount=0 if is_trial else session["amount_total"]))
            subscription["latest_invoice"] = invoice["id"]
            self.emit("customer.subscription.created", subscription)
            self.emit("invoice.created", invoice)
            self.emit("invoice.finalized", invoice)
            self._settle(invoice)
            session |= {
                "customer_details": {"address": None, "email": self.get("customer", session["customer"])["email"], "name": None, "phone": None},
                "invoice": invoice["id"],
                "payment_status": "no_payment_required" if is_trial else "paid",
                "status": "complete",
                "subscription": subscription["id"],
                "url": None,
            }
            self.emit("checkout.session.completed", session)
            return subscription

    # Subscriptions

    def change(self, what: str | Json, **fields: Any) -> Json:
        """Sets fields of a subscription and tells of it, if anything is different from before."""
        with self.lock:
            subscription = self.get("subscription", what)
            previous = {name: shapes.copied(subscription[name]) for name, value in fields.items() if subscription[name] != value}
            subscription |= fields
            if previous:
                self.emit("customer.subscription.updated", subscription, previous=previous)
            return subscription

    def set_status(self, what: str | Json, status: str) -> Json:
        if status not in STATUSES:
            raise ValueError(f"{status} is none of {STATUSES}")
        return self.cancel(what) if status == "canceled" else self.change(what, status=status)

    def renew(self, what: str | Json) -> Json:
        """A month later, by the subscription's own count: the next period is paid. The clock stays."""
        with self.lock:
            subscription = self.get("subscription", what)
            items = shapes.copied(subscription["items"])
            for item in items["data"]:
                item["current_period_start"] = item["current_period_end"]
                item["current_period_end"] += shapes.MONTH_SECONDS
            invoice = self._bill(subscription)
            self._settle(invoice)
            return self.change(subscription, items=items, latest_invoice=invoice["id"], status="active")

    def fail_payment(self, what: str | Json) -> Json:
        """The card is refused for the next period: past_due, with an open invoice."""
        with self.lock:
            subscription = self.get("subscription", what)
            invoice = self._bill(subscription)
            invoice |= {"attempt_count": 1, "attempted": True, "next_payment_attempt": self.now + 3 * shapes.DAY_SECONDS}
            self.emit("invoice.payment_failed", invoice)
            return self.change(subscription, status="past_due", latest_invoice=invoice["id"])

    def recover(self, what: str | Json) -> Json:
        """The open invoices are paid after all: active again."""
        with self.lock:
            subscription = self.get("subscription", what)
            for invoice in self.all("invoice"):
                if invoice["parent"]["subscription_details"]["subscription"] == subscription["id"] and invoice["status"] == "open":
                    self._settle(invoice)
            return self.change(subscription, status="active")

    def cancel(self, what: str | Json, *, details: Json | None = None) -> Json:
        """At once, and for good."""
        with self.lock:
            subscription = self.get("subscription", what)
            reason = {"comment": None, "feedback": None, "reason": "cancellation_requested"} | (details or {})
            subscription |= {"status": "canceled", "ended_at": self.now, "cancellation_details": reason}
            subscription["canceled_at"] = subscription["canceled_at"] or self.now
            self.emit("customer.subscription.deleted", subscription)
            return subscription

    def metered(self, customer: str | Json, event_name: str) -> Decimal:
        """The sum of what was reported for a customer, as an invoice would take it."""
        with self.lock:
            customer_id = customer if isinstance(customer, str) else customer["id"]
            events = [event for event in self.all("billing.meter_event") if event["event_name"] == event_name]
            return sum((Decimal(event["payload"]["value"]) for event in events if event["payload"]["stripe_customer_id"] == customer_id), Decimal())

    def _bill(self, subscription: Json) -> Json:
        amount = sum((item["price"]["unit_amount"] or 0) * (item["quantity"] or 0) for item in subscription["items"]["data"])
        invoice = self.add(shapes.invoice(subscription, self.now, reason="subscription_cycle", amount=amount))
        self.emit("invoice.created", invoice)
        self.emit("invoice.finalized", invoice)
        return invoice

    def _settle(self, invoice: Json) -> None:
        invoice |= {"attempt_count": invoice["attempt_count"] + 1, "attempted": True, "next_payment_attempt": None}
        invoice |= {"amount_paid": invoice["amount_due"], "amount_remaining": 0, "status": "paid", "auto_advance": False}
        invoice["status_transitions"]["paid_at"] = self.now
        self.emit("invoice.paid", invoice)
        self.emit("invoice.payment_succeeded", invoice)
