"""Opening a checkout at Stripe and the customer portal: what to ask for is decided first, then Stripe is asked, then it is written down.

Nothing is written unless Stripe did its part, and every call has an idempotency key: asked twice, at once or after a failure, it is one checkout.
"""

import asyncio

from agentidp.auth.instance import Instance
from agentidp.billing import actions, queries
from agentidp.billing.queries import Account
from agentidp.billing.rules import Checkout, NoCustomer, PortalFailed, Session, StripeFailed, plan_to_buy, require_allowed
from agentidp.billing.stripe import Stripe, stripe_of
from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.core.plans import PlanTier


async def open_checkout(
    instance: Instance, caller: Caller, *, target_tier: PlanTier | None = None, success_url: str | None = None, cancel_url: str | None = None
) -> str:
    """The address of the checkout for that plan, default the next one up; addresses default to the console.

    Raises NotFound (nothing is sold here), InvalidFields (an address elsewhere, no such plan above the current one), StripeFailed.
    """
    stripe, issuer = stripe_of(instance), instance.settings.issuer
    given = {name: url for name, url in (("successUrl", success_url), ("cancelUrl", cancel_url)) if url is not None}
    require_allowed(given, (issuer, *instance.settings.billing.allowed_origins))
    account = await instance.database.read(queries.get_account, caller)
    plan = plan_to_buy(account.plan, target_tier, stripe.for_sale)
    checkout = Checkout(
        caller.organization_id,
        plan,
        stripe.for_sale[plan],
        success_url or f"{issuer}/console?billing=success",
        cancel_url or f"{issuer}/console?billing=cancel",
    )
    last = account.checkouts.get(plan)
    is_open = last is not None and last.is_open and last.expires_at > instance.clock() + limits.CHECKOUT_LEFT_MS_MIN
    if last is not None and is_open and last.fingerprint == checkout.fingerprint:
        return str(last.url)
    try:
        async with asyncio.timeout(limits.STRIPE_SECONDS_MAX):
            customer_id, session = await _ask(stripe, checkout, account)
    except TimeoutError as error:
        raise StripeFailed from error
    await instance.database.write(actions.record_checkout, caller, checkout, customer_id, session)
    return session.url


async def _ask(stripe: Stripe, checkout: Checkout, account: Account) -> tuple[str, Session]:
    """The customer and the new checkout. An earlier one for the same plan that leads elsewhere is closed: it must not be paid, too."""
    customer_id = account.customer_id or await stripe.create_customer(checkout.organization_id)
    last = account.checkouts.get(checkout.plan)
    if last is not None and last.is_open:
        await stripe.expire_session(last.session_id)
    return customer_id, await stripe.create_session(checkout, customer_id, after=last.session_id if last is not None else None)


async def open_portal(instance: Instance, caller: Caller) -> str:
    """The address of the customer portal, which leads back to the console. Raises NotFound, NoCustomer, PortalFailed."""
    stripe = stripe_of(instance)
    customer_id = await instance.database.read(queries.find_customer, caller)
    if customer_id is None:
        raise NoCustomer
    try:
        return await stripe.create_portal(customer_id, f"{instance.settings.issuer}/console")
    except StripeFailed as error:
        raise PortalFailed from error
