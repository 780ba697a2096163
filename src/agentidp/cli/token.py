"""`agentidp token`"""

import json as json_module
from typing import Annotated

from cyclopts import Parameter

from agentidp.cli.client import Login, get_token
from agentidp.cli.settings import Json


def token(
    *,
    login: Login | None = None,
    scope: Annotated[str | None, Parameter(help="Scopes separated by spaces; all allowed ones but admin:orgs when absent.")] = None,
    resource: Annotated[list[str] | None, Parameter(help="Whom the token is for; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Get an access token from a running server and print it, and nothing else."""
    answer = get_token(login or Login(), scope, resource or [])
    print(json_module.dumps(answer) if json else answer["access_token"])
