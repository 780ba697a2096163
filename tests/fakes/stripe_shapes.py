"""Stripe's objects as JSON: the fields that an integration of subscriptions meets, in the shapes of the API version below. No state, no HTTP."""

import json
import secrets
from typing import Any

API_VERSION = "2026-10-28.endive"  # what the installed library speaks
DAY_SECONDS = 24 * 3600
MONTH_SECONDS = 30 * DAY_SECONDS

Json = dict[str, Any]


class StripeFault(Exception):
    """An answer with Stripe's error envelope."""

    def __init__(self, status: int, message: str, *, type: str = "invalid_request_error", code: str | None = None, param: str | None = None) -> None:  # noqa: A002 - Stripe's word
        super().__init__(message)
        self.status = status
        self.is_saved = True  # under the idempotency key; what failed validation is not
        self.headers: dict[str, str] = {}
        doc_url = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}" if code else None
        parts = {"code": code, "doc_url": doc_url, "message": message, "param": param, "type": type}
        self.body: Json = {"error": {name: value for name, value in parts.items() if value is not None}}


def missing(kind: str, object_id: str, param: str = "id") -> StripeFault:
    """What is said about an object that is not there, with 404 in a path and 400 in a parameter."""
    name = {"checkout.session": "checkout.session", "billing_portal.session": "billing_portal session"}.get(kind, kind)
    return StripeFault(404 if param == "id" else 400, f"No such {name}: '{object_id}'", code="resource_missing", param=param)


def wrong(message: str, param: str | None = None, code: str | None = None) -> StripeFault:
    fault = StripeFault(400, message, code=code, param=param)
    fault.is_saved = False
    return fault


def new_id(prefix: str, length: int = 24) -> str:
    return f"{prefix}_{secrets.token_hex(length)[:length]}"


def copied(value: Any) -> Any:
    return json.loads(json.dumps(value))


def plain_list(data: list[Json], url: str, *, has_more: bool = False) -> Json:
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def customer(params: Json, now: int, *, livemode: bool) -> Json:
    object_id = new_id("cus", 14)
    fixed = {
        "id": object_id,
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": now,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": None,
        "invoice_prefix": secrets.token_hex(4).upper(),
        "invoice_settings": {"custom_fields": None, "default_payment_method": None, "footer": None, "rendering_options": None},
        "livemode": livemode,
        "metadata": {},
        "name": None,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }
    return fixed | {name: value for name, value in params.items() if name in fixed}


def product(object_id: str, name: str, now: int, *, livemode: bool) -> Json:
    return {
        "id": object_id,
        "object": "product",
        "active": True,
        "created": now,
        "default_price": None,
        "description": None,
        "images": [],
        "livemode": livemode,
        "marketing_features": [],
        "metadata": {},
        "name": name,
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "type": "service",
        "unit_label": None,
        "updated": now,
        "url": None,
    }


def price(object_id: str, product_id: str, now: int, *, livemode: bool, unit_amount: int, currency: str, meter: str | None, lookup_key: str | None) -> Json:
    return {
        "id": object_id,
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": now,
        "currency": currency,
        "custom_unit_amount": None,
        "livemode": livemode,
        "lookup_key": lookup_key,
        "metadata": {},
        "nickname": None,
        "product": product_id,
        "recurring": {"interval": "month", "interval_count": 1, "meter": meter, "trial_period_days": None, "usage_type": "metered" if meter else "licensed"},
        "tax_behavior": "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "recurring",
        "unit_amount": unit_amount,
        "unit_amount_decimal": str(unit_amount),
    }


def checkout_session(params: Json, now: int, *, livemode: bool, amount: int, currency: str, base_url: str) -> Json:
    object_id = new_id("cs_live" if livemode else "cs_test", 60)
    given = ("allow_promotion_codes", "cancel_url", "client_reference_id", "customer", "customer_email", "locale", "success_url")
    return {
        "id": object_id,
        "object": "checkout.session",
        "adaptive_pricing": {"enabled": False},
        "after_expiration": None,
        "amount_subtotal": amount,
        "amount_total": amount,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": None,
        "client_secret": None,
        "consent": None,
        "consent_collection": None,
        "created": now,
        "currency": currency,
        "currency_conversion": None,
        "custom_fields": [],
        "custom_text": {"after_submit": None, "shipping_address": None, "submit": None, "terms_of_service_acceptance": None},
        "customer_creation": None if params.get("customer") else "always",
        "customer_details": None,
        "discounts": [],
        "expires_at": params.get("expires_at", now + DAY_SECONDS),
        "invoice": None,
        "invoice_creation": None,
        "livemode": livemode,
        "metadata": params.get("metadata", {}),
        "mode": params["mode"],
        "origin_context": None,
        "payment_intent": None,
        "payment_link": None,
        "payment_method_collection": "always",
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "phone_number_collection": {"enabled": False},
        "recovered_from": None,
        "setup_intent": None,
        "shipping_address_collection": None,
        "shipping_cost": None,
        "shipping_options": [],
        "status": "open",
        "submit_type": None,
        "subscription": None,
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": f"{base_url}/pay/{object_id}",
        **{name: params.get(name) for name in given},
    }


def line_item(price_object: Json, quantity: int | None) -> Json:
    amount = (price_object["unit_amount"] or 0) * (quantity or 0)
    return {
        "id": new_id("li"),
        "object": "item",
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "currency": price_object["currency"],
        "description": price_object["product"],
        "price": price_object,
        "quantity": quantity,
    }


def subscription_item(subscription_id: str, price_object: Json, quantity: int | None, start: int, end: int) -> Json:
    recurring = price_object["recurring"]
    return {
        "id": new_id("si", 14),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": start,
        "current_period_end": end,
        "current_period_start": start,
        "discounts": [],
        "metadata": {},
        "plan": {
            "id": price_object["id"],
            "object": "plan",
            "active": True,
            "amount": price_object["unit_amount"],
            "currency": price_object["currency"],
            "interval": recurring["interval"],
            "interval_count": 1,
            "livemode": price_object["livemode"],
            "meter": recurring["meter"],
            "product": price_object["product"],
            "usage_type": recurring["usage_type"],
        },
        "price": price_object,
        "quantity": quantity,
        "subscription": subscription_id,
        "tax_rates": [],
    }


def subscription(customer_id: str, lines: list[Json], now: int, *, livemode: bool, metadata: dict[str, str], trial_days: int = 0) -> Json:
    object_id = new_id("sub")
    trial_end = now + trial_days * DAY_SECONDS if trial_days else None
    items = [subscription_item(object_id, line["price"], line["quantity"], now, trial_end or now + MONTH_SECONDS) for line in lines]
    return {
        "id": object_id,
        "object": "subscription",
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": trial_end or now,
        "billing_cycle_anchor_config": None,
        "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible"},
        "billing_thresholds": None,
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "created": now,
        "currency": lines[0]["price"]["currency"],
        "customer": customer_id,
        "days_until_due": None,
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": plain_list(items, f"/v1/subscription_items?subscription={object_id}") | {"total_count": len(items)},
        "latest_invoice": None,
        "livemode": livemode,
        "metadata": metadata,
        "next_pending_invoice_item_invoice": None,
        "on_behalf_of": None,
        "pause_collection": None,
        "payment_settings": {"payment_method_options": None, "payment_method_types": None, "save_default_payment_method": "off"},
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "start_date": now,
        "status": "trialing" if trial_end else "active",
        "test_clock": None,
        "transfer_data": None,
        "trial_end": trial_end,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": now if trial_end else None,
    }


def invoice(of: Json, now: int, *, reason: str, amount: int) -> Json:
    object_id = new_id("in")
    return {
        "id": object_id,
        "object": "invoice",
        "amount_due": amount,
        "amount_paid": 0,
        "amount_remaining": amount,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "billing_reason": reason,
        "collection_method": "charge_automatically",
        "created": now,
        "currency": of["currency"],
        "customer": of["customer"],
        "customer_email": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "lines": plain_list([], f"/v1/invoices/{object_id}/lines"),
        "livemode": of["livemode"],
        "metadata": {},
        "next_payment_attempt": None,
        "number": f"FAKE-{object_id[-8:].upper()}",
        "parent": {
            "quote_details": None,
            "subscription_details": {"metadata": copied(of["metadata"]), "subscription": of["id"]},
            "type": "subscription_details",
        },
        "period_end": now,
        "period_start": now,
        "status": "open",
        "status_transitions": {"finalized_at": now, "marked_uncollectible_at": None, "paid_at": None, "voided_at": None},
        "subtotal": amount,
        "total": amount,
    }


def portal_session(params: Json, now: int, *, livemode: bool, base_url: str) -> Json:
    object_id = new_id("bps")
    return {
        "id": object_id,
        "object": "billing_portal.session",
        "configuration": params.get("configuration", "bpc_fake"),
        "created": now,
        "customer": params["customer"],
        "flow": None,
        "livemode": livemode,
        "locale": params.get("locale"),
        "on_behalf_of": None,
        "return_url": params.get("return_url"),
        "url": f"{base_url}/portal/{object_id}",
    }
