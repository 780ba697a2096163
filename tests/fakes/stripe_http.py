"""The fake Stripe's port: the API's requests, and pages for a person with a browser, whose buttons are calls below `/_control/`."""

import html
import os
import socket
import struct
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.fakes.stripe_shapes import Json, StripeFault

# What a button, or a POST to /_control/{name}/{id}, may call on the fake.
CONTROLS = ("pay", "expire", "fail_payment", "recover", "renew", "cancel")


def make_handler(fake: Any) -> type[BaseHTTPRequestHandler]:
    return type("FakeStripeHandler", (_Handler,), {"fake": fake})


class _Handler(BaseHTTPRequestHandler):
    fake: Any
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes

    def do_GET(self) -> None:
        if self.path.startswith("/pay/"):
            self._page(lambda: checkout_page(self.fake, self.path.removeprefix("/pay/")))
        elif self.path.startswith("/portal/"):
            self._page(lambda: portal_page(self.fake, self.path.removeprefix("/portal/")))
        else:
            self._api()

    def do_POST(self) -> None:
        if self.path.startswith("/_control/"):
            self._control()
        else:
            self._api()

    def do_DELETE(self) -> None:
        self._api()

    def _api(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.fake.reply(self.command, self.path, headers, self._body())
        if reply.status == 0:
            self._reset()
        else:
            self._send(reply.status, reply.body, reply.headers)
        self.fake.on_change()

    def _control(self) -> None:
        self._body()
        name, _, object_id = self.path.removeprefix("/_control/").partition("/")
        if name not in CONTROLS:
            self._send(404, b"There is no such button.", {})
            return

        def press() -> tuple[int, bytes, dict[str, str]]:
            getattr(self.fake, name)(object_id)
            self.fake.on_change()
            return 303, b"", {"Location": after(self.fake, name, object_id, self.headers.get("Referer", "/"))}

        self._page(press)

    def _page(self, make: Callable[[], tuple[int, bytes, dict[str, str]]]) -> None:
        try:
            self._send(*make())
        except StripeFault as fault:
            self._send(*page("Not possible", f"<p>{html.escape(str(fault))}</p>", status=fault.status))

    def _body(self) -> str:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        try:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # a client that waits no longer
            self.close_connection = True

    def _reset(self) -> None:
        """RST instead of an answer: a socket closed with nothing left to linger for."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Tests read their own output."""


def checkout_page(fake: Any, session_id: str) -> tuple[int, bytes, dict[str, str]]:
    session = fake.get("checkout.session", session_id)
    lines = "".join(f"<li>{html.escape(line['price']['id'])} × {line['quantity'] or 'usage'}</li>" for line in fake.line_items(session))
    amount = f"{session['amount_total'] / 100:.2f} {session['currency'].upper()} a month"
    cancel = f'<p><a href="{html.escape(session["cancel_url"])}">Back without paying</a></p>' if session["cancel_url"] else ""
    actions = button("pay", session_id, "Pay") if session["status"] == "open" else f"<p>This session is {session['status']}.</p>"
    return page("Checkout at the fake Stripe", f"<ul>{lines}</ul><p>{amount}</p>{actions}{cancel}")


def portal_page(fake: Any, portal_id: str) -> tuple[int, bytes, dict[str, str]]:
    portal = fake.get("billing_portal.session", portal_id)
    parts = []
    for subscription in fake.all("subscription"):
        if subscription["customer"] == portal["customer"]:
            is_over = subscription["status"] == "canceled"
            buttons = "" if is_over else "".join(button(name, subscription["id"], name.replace("_", " ").capitalize()) for name in CONTROLS[2:])
            parts.append(f"<h2>{html.escape(subscription['id'])}: {subscription['status']}</h2>{buttons}")
    reported = sorted({event["event_name"] for event in fake.all("billing.meter_event")})
    parts += [f"<p>Reported: {html.escape(name)} {fake.metered(portal['customer'], name)}</p>" for name in reported]
    back = f'<p><a href="{html.escape(portal["return_url"])}">Back</a></p>' if portal["return_url"] else ""
    return page("Customer portal at the fake Stripe", "".join(parts) + back)


def after(fake: Any, name: str, object_id: str, referer: str) -> str:
    """Where the browser goes next: after paying to the shop, else back to the page with the button."""
    if name != "pay":
        return referer
    session: Json = fake.get("checkout.session", object_id)
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", object_id)


def button(name: str, object_id: str, label: str) -> str:
    return f'<form method="post" action="/_control/{name}/{html.escape(object_id)}"><button>{label}</button></form>'


def page(title: str, body: str, *, status: int = 200) -> tuple[int, bytes, dict[str, str]]:
    text = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>{body}</html>'
    return status, text.encode(), {"Content-Type": "text/html; charset=utf-8"}
