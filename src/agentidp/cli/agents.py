"""`agentidp agents list|create`"""

import json as json_module
from typing import Annotated, Any

from cyclopts import App, Parameter

from agentidp.cli.client import Login, call
from agentidp.cli.settings import Json

app = App(name="agents", help="List and register agents on a running server.")


@app.command(name="list")
def list_(
    *,
    login: Login | None = None,
    status: Annotated[str | None, Parameter(help="active, suspended or decommissioned.")] = None,
    limit: Annotated[int, Parameter(help="At most this many, 1 to 100.")] = 20,
    json: Json = False,
) -> None:
    """List the organization's agents, newest first.

    For example:

        agentidp agents list
        agentidp agents list --status suspended --json
    """
    query: dict[str, Any] = {"limit": limit} | ({"status": status} if status else {})
    page = call(login or Login(), "GET", "/api/v1/agents", scope="agents:read", params=query)
    if json:
        print(json_module.dumps(page))
        return
    for agent in page["data"]:
        print(f"{agent['agentId']}  {agent['status']:<14} {agent['agentType']:<12} {agent['email']}")
    print(f"{len(page['data'])} of {page['total']}")


@app.command
def create(  # noqa: PLR0913 - an option a field
    email: str,
    *,
    login: Login | None = None,
    agent_type: Annotated[str, Parameter(help="screener, classifier, orchestrator, extractor, summarizer, router, monitor or custom.")] = "custom",
    version: str = "1.0.0",
    capability: Annotated[list[str] | None, Parameter(help="resource:action; may be repeated.")] = None,
    owner: str = "cli",
    deployment_env: Annotated[str, Parameter(help="development, staging or production.")] = "development",
    scope: Annotated[list[str] | None, Parameter(help="A scope that it may ask for; may be repeated.")] = None,
    credential: Annotated[bool, Parameter(help="Also generate a credential and print its secret, once.")] = True,
    json: Json = False,
) -> None:
    """Register an agent, with a credential unless --no-credential.

    For example:

        agentidp agents create screener-001@acme.example --agent-type screener --capability resume:read
    """
    login = login or Login()
    body: dict[str, Any] = {
        "email": email,
        "agentType": agent_type,
        "version": version,
        "capabilities": capability or ["agent:run"],
        "owner": owner,
        "deploymentEnv": deployment_env,
    } | ({"scopes": scope} if scope else {})
    wanted = " ".join(sorted({"agents:read", "agents:write", "tokens:read", "openid", *(scope or [])}))
    agent = call(login, "POST", "/api/v1/agents", scope=wanted, json=body)
    if credential:
        created = call(login, "POST", f"/api/v1/agents/{agent['agentId']}/credentials", scope=wanted, json={})
        agent |= {"clientId": created["clientId"], "clientSecret": created["clientSecret"]}
    if json:
        print(json_module.dumps(agent))
        return
    print(f"agent id       {agent['agentId']}")
    if credential:
        print(f"client secret  {agent['clientSecret']}  (shown once)")
