"""`agentidp orgs list|create|add-administrator|suspend|reactivate`"""

import json as json_module
from typing import Annotated, Any

from cyclopts import App, Parameter

from agentidp.auth.scopes import SCOPES, to_text
from agentidp.cli.client import Login, call
from agentidp.cli.settings import Json
from agentidp.core.caller import OPERATOR_SCOPE

app = App(name="orgs", help="Organizations of a running server, for its operator.")
_PATH = "/api/v1/organizations"


@app.command(name="list")
def list_(
    *,
    login: Login | None = None,
    status: Annotated[str | None, Parameter(help="active, suspended or deleted.")] = None,
    limit: Annotated[int, Parameter(help="At most this many, 1 to 100.")] = 20,
    json: Json = False,
) -> None:
    """List the organizations, newest first.

    For example:

        agentidp orgs list
        agentidp orgs list --status suspended --json
    """
    query: dict[str, Any] = {"limit": limit} | ({"status": status} if status else {})
    page = call(login or Login(), "GET", _PATH, scope=OPERATOR_SCOPE, params=query)
    if json:
        print(json_module.dumps(page))
        return
    for organization in page["data"]:
        print(f"{organization['organizationId']}  {organization['status']:<10} {organization['planTier']:<11} {organization['slug']}")
    print(f"{len(page['data'])} of {page['total']}")


@app.command
def create(
    name: str,
    *,
    slug: Annotated[str, Parameter(help="Its short name: lower case letters, digits and dashes.")],
    login: Login | None = None,
    plan_tier: Annotated[str, Parameter(help="free, pro or enterprise.")] = "free",
    email: Annotated[str | None, Parameter(help="Of its first administrator; admin@SLUG.agentidp.local when absent.")] = None,
    json: Json = False,
) -> None:
    """Create an organization with its first administrator, and print the administrator's secret, once.

    For example:

        agentidp orgs create Acme --slug acme
    """
    login = login or Login()
    organization = call(login, "POST", _PATH, scope=OPERATOR_SCOPE, json={"name": name, "slug": slug, "planTier": plan_tier})
    _print(organization | _register(login, organization["organizationId"], email or f"admin@{slug}.agentidp.local"), json=json)


@app.command
def add_administrator(organization_id: str, email: str, *, login: Login | None = None, json: Json = False) -> None:
    """Register one more administrator, and print its secret, once: the way back into an organization that has lost its secrets.

    For example:

        agentidp orgs add-administrator 0198c5a2-7d1e-7c3a-9f00-5b1d2e3f4a5b rescue@acme.example
    """
    _print(_register(login or Login(), organization_id, email), json=json)


@app.command
def suspend(organization_id: str, *, login: Login | None = None) -> None:
    """Stop an organization: the tokens of all its agents are refused at once, and it gets no new ones."""
    _set_status(login or Login(), organization_id, "suspended")


@app.command
def reactivate(organization_id: str, *, login: Login | None = None) -> None:
    """Let a suspended organization work again, with those of its tokens that have not expired."""
    _set_status(login or Login(), organization_id, "active")


def _register(login: Login, organization_id: str, email: str) -> dict[str, Any]:
    """With every scope, because an administrator gets those of the token that registers it, the operator's own excepted."""
    return call(login, "POST", f"{_PATH}/{organization_id}/administrators", scope=to_text(SCOPES), json={"email": email})


def _print(created: dict[str, Any], *, json: bool) -> None:
    if json:
        print(json_module.dumps(created))
        return
    print(f"organization id  {created['organizationId']}")
    print(f"client id        {created['clientId']}")
    print(f"client secret    {created['clientSecret']}  (shown once)")


def _set_status(login: Login, organization_id: str, status: str) -> None:
    organization = call(login, "PATCH", f"{_PATH}/{organization_id}", scope=OPERATOR_SCOPE, json={"status": status})
    print(f"{organization['organizationId']}  {organization['status']}")
