"""`agentidp keys list|rotate|retire|master|rotate-master`"""

import asyncio
import json as json_module
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import App, Parameter

from agentidp.auth.data_keys import Held, list_held, master_keys_of_signing_keys, open_sealer, reseal, rewrap
from agentidp.auth.instance import Instance
from agentidp.auth.keys import list_keys, retire_key, rotate_keys
from agentidp.auth.master_keys import begin_file_rotation, end_file_rotation, load_master_keys
from agentidp.cli.db import require_file
from agentidp.cli.settings import Config, Json
from agentidp.core.caller import Caller
from agentidp.core.clock import to_rfc3339
from agentidp.core.config import load
from agentidp.core.secrets import new_master_key
from agentidp.db.engine import database_url
from agentidp.start import start

app = App(name="keys", help="Signing keys: list, rotate, retire; the master key: make one, rotate.")
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
        master_keys = await instance.database.read(master_keys_of_signing_keys, caller)
        keys = await instance.database.read(list_keys, caller, instance.sealer, include_unpublished=all)
        return [
            {
                "keyId": key.key_id,
                "algorithm": key.algorithm,
                "status": key.status,
                "createdAt": to_rfc3339(key.created_at),
                "publishedUntil": to_rfc3339(key.published_until) if key.published_until is not None else None,
                "masterKey": master_keys[key.key_id],
            }
            for key in keys
        ]

    rows = _with_instance(config, work)
    if json:
        print(json_module.dumps(rows))
        return
    for row in rows:
        until = f"  until {row['publishedUntil']}" if row["publishedUntil"] else ""
        print(f"{row['keyId']}  {row['algorithm']:<8} {row['status']:<8} {row['createdAt']}  under {row['masterKey']}{until}")


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


@app.command
def rotate_master(
    *,
    config: Config = None,
    new_data_key: Annotated[bool, Parameter(negative="", help="Seal every value anew, under a new data key: when the old master key has leaked.")] = False,
    status: Annotated[bool, Parameter(negative="", help="Only tell what is under which key.")] = False,
    json: Json = False,
) -> None:
    """Bring everything under the master key that the settings name; may be interrupted and run again.

    Before that, set AGENTIDP_MASTER_KEY to a fresh key and AGENTIDP_MASTER_KEY_PREVIOUS to the one before, or the AGENTIDP_VAULT__…
    settings beside the old key, for every process. Where the master key is a file in the data folder, this makes the fresh one, and keeps
    the one before it in a file beside it: backups from before the rotation open under that one only. On SQLite, stop the server first.

    For example:

        agentidp keys rotate-master
        agentidp keys rotate-master --status
    """

    async def work(instance: Instance, caller: Caller) -> tuple[str, list[Held], list[Held], int, Path | None]:
        settings, database = instance.settings, instance.database
        resealed, kept = 0, None
        if not status:
            begin_file_rotation(settings)
        master_keys = load_master_keys(settings)
        if not status:
            await rewrap(database, master_keys, caller, new_data_key=new_data_key)
            resealed = await reseal(database, await open_sealer(database, master_keys), caller)
        held = await database.read(list_held, caller)
        others = [row for row in held if not master_keys.current.holds(row.master_key)]
        if not status and not others:
            kept = end_file_rotation(settings)
        return master_keys.current.name, held, others, resealed, kept

    name, held, others, resealed, kept = _with_instance(config, work)
    if json:
        rows = [{"column": row.column, "dataKey": row.data_key, "masterKey": row.master_key, "count": row.count} for row in held]
        print(json_module.dumps({"masterKey": name, "done": not others, "resealed": resealed, "held": rows}))
        return
    for row in held if status else others:
        print(f"{row.count:>6}  {row.column:<32} {row.master_key}" + (f", data key {row.data_key}" if row.data_key else ""))
    if others:
        print(f"Not everything is under {name}: keep the master key before it, and run this without --status.")
        return
    print(f"Everything is under {name}; only backups from before need another master key." + (f" Sealed anew: {resealed}." if resealed else ""))
    if kept is not None:
        print(f"The one before it is kept for them: {kept}")
