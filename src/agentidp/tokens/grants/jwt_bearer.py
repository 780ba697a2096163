"""The JWT bearer grant (RFC 7523 section 2.1, MCP workload identity federation): a token of another issuer is the whole proof; no client authenticates."""

from typing import Any

from starlette.requests import Request

from agentidp.auth import throttle
from agentidp.core.errors import Invalid
from agentidp.policies.rules import ExchangeRefused
from agentidp.tokens.clients import Form, require_no_client
from agentidp.tokens.grants.outside import Wanted, exchange
from agentidp.tokens.rules import optional_audience, requested_scope

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"


async def handle(request: Request, form: Form, grant: str = GRANT_TYPE, refusal: type[ExchangeRefused] = ExchangeRefused) -> dict[str, Any]:
    """The token answer. `client_id` may say which agent is meant. Raises RateLimited, and what `exchange` does, but always `refusal` for a token that is refused."""
    require_no_client(request, form)
    await throttle.admit_source(request)  # nobody has proven anything yet, and not every token leads to an agent with a rate
    if "assertion" not in form:
        raise Invalid("The parameter assertion is missing.")
    wanted = Wanted(grant, form.get("client_id", [None])[0], requested_scope(form), optional_audience(form))
    try:
        return await exchange(request, form["assertion"][0], wanted)
    except ExchangeRefused as refused:
        raise refusal(refused.detail, shown_code=refused.code, audit=refused.audit) from refused
