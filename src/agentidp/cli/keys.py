"""`agentidp keys list|rotate|retire|master`"""

import asyncio
import json as json_module
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from cyclopts import App, Parameter

from agentidp.auth.instance import Instance
from agentidp.auth.keys import list_keys, retire_key, rotate_keys
from agentidp.cli.db import require_file
from agentidp.cli.settings import Config, Json
from agentidp.core.caller import Caller
from agentidp.core.clock import to_rfc3339
from agentidp.core.config import load
from agentidp.core.secrets import new_master_key
from agentidp.db.engine import database_url
from agentidp.start import start

app = App(name="keys", help="Signing keys: list, rotate, retire; make a master key.")
T = TypeVar("T")


def _with_instance(config: Config, work: Callable[[Instance, Caller], Awaitable[T]]) -> T:
    settings = load(config)
    require_file(database_url(settings))

    async def run() -> T:
        instance = (await start(settings)).instance
        try:
            return await work(instance, Caller(instance.operator_organization_id, is_system=True))
        finally:
            await instance.database.close()

    return asyncio.run(run())


@app.command(name="list")
def list_(*, config: Config = None, all: Annotated[bool, Parameter(negative="")] = False, json: Json = False) -> None:  # noqa: A002 - the option's name
    """List the published keys; with --all, those that are no longer published, too.

    For example:

        agentidp keys list --json
    """

    async def work(instance: Instance, caller: Caller) -> list[dict[str, str | None]]:
        keys = await instance.database.read(list_keys, caller, instance.sealer, include_unpublished=all)
        return [
            {
                "keyId": key.key_id,
                "algorithm": key.algorithm,
                "status": key.status,
                "createdAt": to_rfc3339(key.created_at),
                "publishedUntil": to_rfc3339(key.published_until) if key.published_until is not None else None,
            }
            for key in keys
        ]

    rows = _with_instance(config, work)
    if json:
        print(json_module.dumps(rows))
        return
    for row in rows:
        until = f"  until {row['publishedUntil']}" if row["publishedUntil"] else ""
        print(f"{row['keyId']}  {row['algorithm']:<8} {row['status']:<8} {row['createdAt']}{until}")


@app.command
def rotate(
    *,
    config: Config = None,
    at_once: Annotated[bool, Parameter(negative="", help="Do not wait until verifiers know the next key.")] = False,
    json: Json = False,
) -> None:
    """Let the next key sign. The current one stays published until every token that it signed has expired.

    A server does this by itself every AGENTIDP_TOKENS__ROTATION_DAYS. On SQLite, stop the server first.

    For example:

        agentidp keys rotate
    """

    async def work(instance: Instance, caller: Caller) -> str:
        tokens = instance.settings.tokens
        return await instance.database.write(rotate_keys, caller, instance.sealer, tokens.algorithm, lifetime_seconds=tokens.lifetime_seconds, at_once=at_once)

    key_id = _with_instance(config, work)
    print(json_module.dumps({"current": key_id}) if json else f"{key_id} signs from now on")


@app.command
def retire(key_id: Annotated[str, Parameter(allow_leading_hyphen=True, help="As `keys list` shows it.")], *, config: Config = None) -> None:
    """Take a retired key out of the key set now: every token that it signed dies. For compromised keys, after `rotate --at-once`.

    For example:

        agentidp keys retire Qg-6VY9dSwrCWOSA4paAqnHauymuXCrT7BDLX82M_Kg
    """

    async def work(instance: Instance, caller: Caller) -> None:
        await instance.database.write(retire_key, caller, key_id)

    _with_instance(config, work)
    print(f"{key_id} is no longer published")


@app.command
def master() -> None:
    """Print a fresh master key, for AGENTIDP_MASTER_KEY.

    For example:

        export AGENTIDP_MASTER_KEY=$(agentidp keys master)
    """
    print(new_master_key())
