"""The calls of Stripe's API that the fake answers, as functions over an account. What it does not know, it refuses: it never ignores a filter."""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from tests.fakes import stripe_shapes as shapes
from tests.fakes.stripe_account import Account
from tests.fakes.stripe_params import checked
from tests.fakes.stripe_shapes import Json, StripeFault, wrong

Call = Callable[[Account, str, Json], Json]

KINDS = {
    "customers": "customer",
    "products": "product",
    "prices": "price",
    "checkout/sessions": "checkout.session",
    "subscriptions": "subscription",
    "invoices": "invoice",
    "events": "event",
}


def answer(account: Account, method: str, path: str, params: Json) -> Json:
    """The object that Stripe answers with. Raises StripeFault otherwise."""
    for route_method, pattern, declared, call in ROUTES:
        if route_method == method and (match := re.fullmatch(pattern, path)):
            given = checked(params, declared)
            expand = given.pop("expand", [])
            found = shapes.copied(call(account, match[1] if match.re.groups else "", given))
            for name in expand:
                _expand(account, found, name.split("."), name)
            return found
    raise StripeFault(404, f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we can help at https://support.stripe.com/.")


# Reading


def _retrieve(kind: str) -> Call:
    return lambda account, object_id, _: account.get(kind, object_id)


def _list(url: str, filters: dict[str, Callable[[Json], Any]]) -> Call:
    """Newest first, by pages. `filters` are the parameters that narrow the list, each with what it is compared with."""

    def call(account: Account, _: str, params: Json) -> Json:
        found = [each for each in account.all(KINDS[url])[::-1] if "deleted" not in each]
        wanted = {name: value for name, value in params.items() if name not in {"limit", "starting_after", "ending_before"}}
        if url == "subscriptions":
            found = _with_status(found, wanted.pop("status", None))
        for name, value in wanted.items():
            if name not in filters:
                raise StripeFault(501, f"The fake does not filter {url} by {name}.")
            found = [each for each in found if _fits(filters[name](each), value)]
        return _page(account, KINDS[url], found, params, f"/v1/{url}")

    return call


def _with_status(found: list[Json], status: str | None) -> list[Json]:
    """Without a status all subscriptions but the canceled ones; `all` and `ended` are no statuses of a subscription."""
    over = {"canceled", "incomplete_expired"}
    return [
        each
        for each in found
        if status == "all" or (status == "ended" and each["status"] in over) or (each["status"] != "canceled" if status is None else each["status"] == status)
    ]


def _fits(field: Any, wanted: Any) -> bool:
    """`created` may be a range, some filters are lists of which one is enough."""
    if isinstance(wanted, dict):
        orders: dict[str, Callable[[int], bool]] = {
            "gt": lambda bound: field > bound,
            "gte": lambda bound: field >= bound,
            "lt": lambda bound: field < bound,
            "lte": lambda bound: field <= bound,
        }
        return all(orders[name](bound) for name, bound in wanted.items())
    wanted_ones = wanted if isinstance(wanted, list) else [wanted]
    return any(one in wanted_ones for one in (field if isinstance(field, list) else [field]))


def _page(account: Account, kind: str, found: list[Json], params: Json, url: str) -> Json:
    limit = params.get("limit", 10)
    if not 1 <= limit <= 100:
        raise wrong("Invalid limit: must be between 1 and 100.", "limit")
    ids = [each["id"] for each in found]
    if after := params.get("starting_after"):
        account.get(kind, after, param="starting_after")
        found = found[ids.index(after) + 1 :] if after in ids else []
    if before := params.get("ending_before"):
        account.get(kind, before, param="ending_before")
        found = found[: ids.index(before)] if before in ids else []
        return shapes.plain_list(found[-limit:], url, has_more=len(found) > limit)
    return shapes.plain_list(found[:limit], url, has_more=len(found) > limit)


def _expand(account: Account, thing: Any, path: list[str], whole: str) -> None:
    """Puts the object in place of its id, at a path such as `subscription` or `data.customer`."""
    name, *rest = path
    for each in thing if isinstance(thing, list) else [thing]:
        if name == "line_items" and each["object"] == "checkout.session":
            each[name] = shapes.plain_list(shapes.copied(account.line_items(each)), f"/v1/checkout/sessions/{each['id']}/line_items")
        elif name not in each:
            raise wrong(f"This property cannot be expanded ({whole}).", "expand")
        elif isinstance(each[name], str):
            kind = "invoice" if name == "latest_invoice" else name
            each[name] = shapes.copied(account.get(kind, each[name]))
        if rest and each[name] is not None:
            _expand(account, each[name], rest, whole)


def _search_customers(account: Account, _: str, params: Json) -> Json:
    """`metadata['name']:'value'` and `email:'value'`, joined by AND. The real one lags behind by up to a minute."""
    found = [each for each in account.all("customer")[::-1] if "deleted" not in each]
    for clause in re.split(r"\s+AND\s+", params["query"]):
        match = re.fullmatch(r"""(?:metadata\[["']([^"']+)["']\]|(email|name)):["']([^"']*)["']""", clause.strip())
        if match is None:
            raise StripeFault(501, f"The fake does not search for {clause}.")
        key, field, value = match.groups()
        found = [each for each in found if (each["metadata"].get(key) if key else each[field]) == value]
    limit = params.get("limit", 10)
    return {"object": "search_result", "data": found[:limit], "has_more": len(found) > limit, "next_page": None, "url": "/v1/customers/search"}


# Writing


def _create_customer(account: Account, _: str, params: Json) -> Json:
    made = account.add(shapes.customer(params, account.now, livemode=account.livemode))
    account.emit("customer.created", made)
    return made


def _update_customer(account: Account, object_id: str, params: Json) -> Json:
    customer = account.get("customer", object_id)
    if "deleted" in customer:
        raise shapes.missing("customer", object_id)
    if "metadata" in params:
        params["metadata"] = _merged(customer["metadata"], params["metadata"])
    changed = {name: value for name, value in params.items() if name in customer and customer[name] != value}
    previous = {name: customer[name] for name in changed}
    customer |= changed
    account.emit("customer.updated", customer, previous=previous)
    return customer


def _delete_customer(account: Account, object_id: str, _: Json) -> Json:
    if "deleted" in account.get("customer", object_id):
        raise shapes.missing("customer", object_id)
    account.delete(object_id)
    return account.get("customer", object_id)


def _create_session(account: Account, _: str, params: Json) -> Json:
    if params.get("mode") != "subscription" or params.get("ui_mode", "hosted_page") != "hosted_page":
        raise StripeFault(501, "The fake has Checkout for subscriptions on a page of Stripe's, nothing else.")
    if not params.get("success_url"):
        raise wrong("Missing required param: success_url.", "success_url", "parameter_missing")
    for name in ("success_url", "cancel_url"):
        if not re.match(r"https?://.", params.get(name, "http://-")):
            raise wrong("Not a valid URL", name, "url_invalid")
    if not params.get("line_items"):
        raise wrong("Missing required param: line_items.", "line_items", "parameter_missing")
    if params.get("customer") and params.get("customer_email"):
        raise wrong("You may only specify one of these parameters: customer, customer_email.", "customer")
    if customer_id := params.get("customer"):
        customer = account.get("customer", customer_id, param="customer")
        if "deleted" in customer:
            raise shapes.missing("customer", customer_id, "customer")
    if not account.now + 1800 <= params.get("expires_at", account.now + 3600) <= account.now + shapes.DAY_SECONDS:
        raise wrong("The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation.", "expires_at")
    return account.open_session(params, [_line_item(account, line, index) for index, line in enumerate(params["line_items"])])


def _line_item(account: Account, line: Json, index: int) -> Json:
    where = f"line_items[{index}]"
    if "price" not in line:
        raise StripeFault(501, "The fake takes line items by price only.")
    price = account.get("price", line["price"], param=f"{where}[price]")
    if not price["active"]:
        raise wrong(f"The price specified is inactive. This field only accepts active prices. ({price['id']})", f"{where}[price]")
    is_metered = price["recurring"]["usage_type"] == "metered"
    if is_metered and "quantity" in line:
        raise wrong("Quantity should not be specified where usage_type is `metered`.", f"{where}[quantity]")
    if not is_metered and "quantity" not in line:
        raise wrong(f"Missing required param: {where}[quantity].", f"{where}[quantity]", "parameter_missing")
    return shapes.line_item(price, line.get("quantity"))


def _update_subscription(account: Account, object_id: str, params: Json) -> Json:
    subscription = account.get("subscription", object_id)
    if subscription["ended_at"] and set(params) - {"metadata", "cancellation_details"}:
        raise wrong("A canceled subscription can only update its cancellation_details and metadata.")
    if unknown := set(params) - {"metadata", "cancel_at_period_end", "items", "proration_behavior", "payment_behavior", "description"}:
        raise StripeFault(501, f"The fake does not update {', '.join(sorted(unknown))} of a subscription.")
    fields = {name: params[name] for name in ("description",) if name in params}
    if "metadata" in params:
        fields["metadata"] = _merged(subscription["metadata"], params["metadata"])
    if "cancel_at_period_end" in params:
        is_ending = params["cancel_at_period_end"]
        end = max(item["current_period_end"] for item in subscription["items"]["data"])
        fields |= {"cancel_at_period_end": is_ending, "cancel_at": end if is_ending else None, "canceled_at": account.now if is_ending else None}
    if "items" in params:
        fields["items"] = _with_items(account, subscription, params["items"])
    return account.change(subscription, **fields)


def _with_items(account: Account, subscription: Json, asked: list[Json]) -> Json:
    """The subscription's items after additions, changes of price or quantity, and removals."""
    items = shapes.copied(subscription["items"])
    for index, change in enumerate(asked):
        held = next((item for item in items["data"] if item["id"] == change.get("id")), None)
        if "id" in change and held is None:
            raise shapes.missing("subscription item", change["id"], f"items[{index}][id]")
        if held is not None and change.get("deleted"):
            items["data"].remove(held)
            continue
        price = account.get("price", change["price"], param=f"items[{index}][price]") if "price" in change else held and held["price"]
        if not price:
            raise wrong(f"Missing required param: items[{index}][price].", f"items[{index}][price]", "parameter_missing")
        period = held or subscription["items"]["data"][0]
        quantity = change.get("quantity", held["quantity"] if held else 1)
        made = shapes.subscription_item(subscription["id"], price, quantity, period["current_period_start"], period["current_period_end"])
        if held is None:
            items["data"].append(made)
        else:
            held |= made | {"id": held["id"], "created": held["created"]}
    items["total_count"] = len(items["data"])
    return items


def _cancel_subscription(account: Account, object_id: str, params: Json) -> Json:
    if account.get("subscription", object_id)["ended_at"]:
        raise shapes.missing("subscription", object_id)
    return account.cancel(object_id, details=params.get("cancellation_details"))


def _create_portal_session(account: Account, _: str, params: Json) -> Json:
    if "customer" not in params:
        raise wrong("Missing required param: customer.", "customer", "parameter_missing")
    if "deleted" in account.get("customer", params["customer"], param="customer"):
        raise shapes.missing("customer", params["customer"], "customer")
    return account.add(shapes.portal_session(params, account.now, livemode=account.livemode, base_url=account.url))


def _create_meter_event(account: Account, _: str, params: Json) -> Json:
    """An identifier counts once in 24 hours. Whether the customer exists is found out later, as at Stripe."""
    name, identifier, timestamp = params["event_name"], params.get("identifier") or shapes.new_id("idmp"), params.get("timestamp", account.now)
    if account.meters is not None and name not in account.meters:
        raise StripeFault(400, f"No active meter found for event name {name}.", code="no_meter")
    for key in ("stripe_customer_id", "value"):
        if not params["payload"].get(key):
            raise wrong(f"Missing required payload key: {key}.", f"payload[{key}]")
    try:
        Decimal(params["payload"]["value"])
    except InvalidOperation:
        raise wrong("The payload's value must be numeric.", "payload[value]", "meter_event_invalid_value") from None
    if len(identifier) > 100:
        raise wrong("Invalid string: identifier must be at most 100 characters.", "identifier")
    if not account.now - 35 * shapes.DAY_SECONDS <= timestamp <= account.now + 300:
        raise StripeFault(400, "The timestamp must be within the past 35 calendar days or up to 5 minutes in the future.", param="timestamp")
    same = (each for each in account.all("billing.meter_event") if each["identifier"] == identifier)
    if any(each["created"] > account.now - shapes.DAY_SECONDS for each in same):
        fault = StripeFault(400, f"An event already exists with identifier {identifier}.")
        fault.headers["stripe-should-retry"] = "false"
        raise fault
    made = {
        "object": "billing.meter_event",
        "created": account.now,
        "event_name": name,
        "identifier": identifier,
        "livemode": account.livemode,
        "payload": params["payload"],
        "timestamp": timestamp,
    }
    return account.add(made, key=shapes.new_id("mevt"))


def _merged(held: dict[str, str], changes: Any) -> dict[str, str]:
    """Metadata is merged by key; an empty value removes the key, an empty text all of them."""
    if changes == "":
        return {}
    return {name: value for name, value in (held | changes).items() if value != ""}


_ID = r"/([A-Za-z0-9_\-]+)"
_created = {"created": lambda each: each.get("created", 0)}


def _of(*names: str) -> dict[str, Callable[[Json], Any]]:
    return {name: lambda each, name=name: each.get(name) for name in names} | _created


ROUTES: list[tuple[str, str, str, Call]] = [
    ("POST", "/v1/customers", "CustomerCreateParams", _create_customer),
    ("GET", "/v1/customers", "CustomerListParams", _list("customers", _of("email"))),
    ("GET", "/v1/customers/search", "CustomerSearchParams", _search_customers),
    ("GET", "/v1/customers" + _ID, "CustomerRetrieveParams", _retrieve("customer")),
    ("POST", "/v1/customers" + _ID, "CustomerUpdateParams", _update_customer),
    ("DELETE", "/v1/customers" + _ID, "CustomerDeleteParams", _delete_customer),
    ("GET", "/v1/products", "ProductListParams", _list("products", _of("active") | {"ids": lambda each: each["id"]})),
    ("GET", "/v1/products" + _ID, "ProductRetrieveParams", _retrieve("product")),
    ("GET", "/v1/prices", "PriceListParams", _list("prices", _of("active", "currency", "product", "type") | {"lookup_keys": lambda each: each["lookup_key"]})),
    ("GET", "/v1/prices" + _ID, "PriceRetrieveParams", _retrieve("price")),
    ("POST", "/v1/checkout/sessions", "checkout.SessionCreateParams", _create_session),
    ("GET", "/v1/checkout/sessions", "checkout.SessionListParams", _list("checkout/sessions", _of("customer", "status", "subscription"))),
    ("GET", "/v1/checkout/sessions" + _ID, "checkout.SessionRetrieveParams", _retrieve("checkout.session")),
    ("POST", "/v1/checkout/sessions" + _ID + "/expire", "checkout.SessionExpireParams", lambda account, object_id, _: account.expire(object_id)),
    (
        "GET",
        "/v1/subscriptions",
        "SubscriptionListParams",
        _list("subscriptions", _of("customer") | {"price": lambda each: [item["price"]["id"] for item in each["items"]["data"]]}),
    ),
    ("GET", "/v1/subscriptions" + _ID, "SubscriptionRetrieveParams", _retrieve("subscription")),
    ("POST", "/v1/subscriptions" + _ID, "SubscriptionUpdateParams", _update_subscription),
    ("DELETE", "/v1/subscriptions" + _ID, "SubscriptionCancelParams", _cancel_subscription),
    (
        "GET",
        "/v1/invoices",
        "InvoiceListParams",
        _list("invoices", _of("customer", "status") | {"subscription": lambda each: each["parent"]["subscription_details"]["subscription"]}),
    ),
    ("GET", "/v1/invoices" + _ID, "InvoiceRetrieveParams", _retrieve("invoice")),
    ("GET", "/v1/events", "EventListParams", _list("events", _of("type") | {"types": lambda each: each["type"]})),
    ("GET", "/v1/events" + _ID, "EventRetrieveParams", _retrieve("event")),
    ("POST", "/v1/billing_portal/sessions", "billing_portal.SessionCreateParams", _create_portal_session),
    ("POST", "/v1/billing/meter_events", "billing.MeterEventCreateParams", _create_meter_event),
]
