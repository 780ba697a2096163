"""`agentidp events tail`"""

import json as json_module
import random
import sys
import time
from typing import Annotated, Any

from cyclopts import App, Parameter

from agentidp.cli.client import Login, Refused, Session
from agentidp.cli.settings import Json
from agentidp.core.errors import Problem

app = App(name="events", help="What happens in an organization, as it happens.")
_RETRY_SECONDS, _RETRY_SECONDS_MAX = 0.5, 30.0
_MAY_PASS = frozenset({429, 500, 502, 503, 504})


@app.command
def tail(
    *,
    login: Login | None = None,
    types: Annotated[str | None, Parameter(help="Only these, separated by commas, such as token.issued,auth.failed.")] = None,
    since: Annotated[str | None, Parameter(help="Go on behind the event with this id; else with what happens from now on.")] = None,
    limit: Annotated[int | None, Parameter(name=["--limit", "-n"], help="End after so many events.")] = None,
    json: Json = False,
) -> None:
    """Print events as they happen, until Ctrl-C. When the connection is lost, go on where it was.

    For example:

        agentidp events tail
        agentidp events tail --types token.issued,auth.failed --json | jq .data
        agentidp events tail --since 0190a5c0-0000-7000-8000-000000000000 -n 100
    """
    session = Session(login or Login(), "audit:read")
    left, last_id, pause = limit, since, _RETRY_SECONDS
    while left is None or left > 0:
        query = {"types": types, "limit": left and min(left, 10_000), "lastEventId": last_id}
        try:
            for event in session.events("/api/v1/events", {name: value for name, value in query.items() if value is not None}):
                last_id, pause = event.id or last_id, _RETRY_SECONDS
                if event.data:
                    _print(event.json(), json=json)
                    left = left and left - 1
            continue  # a stream ends now and then
        except Refused as refusal:
            if refusal.status_code not in _MAY_PASS:
                raise
            reason: Problem = refusal
        except Problem as problem:
            reason = problem
        print(f"agentidp: {reason.detail}; trying again", file=sys.stderr)
        time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
        pause = min(2 * pause, _RETRY_SECONDS_MAX)


def _print(event: Any, *, json: bool) -> None:
    data = event["data"]
    target = f"{data['targetType'] or ''} {data['targetId'] or ''}".strip() or "-"
    text = f"{event['timestamp']}  {data['outcome']:<7}  {event['type']:<20}  {data['agentId'] or '-':<36}  {target}"
    print(json_module.dumps(event) if json else text, flush=True)
