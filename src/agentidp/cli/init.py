"""`agentidp init`"""

import asyncio
import json as json_module

from agentidp.cli.settings import Config, Json


def init(*, config: Config = None, json: Json = False) -> None:
    """Set everything up without serving: master key, database, first organization, agent and credential."""
    from agentidp.core.config import FIRST_CREDENTIAL_FILE, load
    from agentidp.core.errors import Conflict
    from agentidp.start import Started, first_credential_document, start

    settings = load(config)

    async def run() -> Started:
        started = await start(settings)
        await started.instance.database.close()
        return started

    first = asyncio.run(run()).first
    if first is None:
        raise Conflict(f"This instance has been set up before; its first credential was written to {settings.data_dir / FIRST_CREDENTIAL_FILE}.")
    document = first_credential_document(settings.issuer, first)
    if json:
        print(json_module.dumps(document))
        return
    print("\n".join(f"{name:<15} {value}" for name, value in document.items()))
    print(f"\nThe secret is shown once; it is also in {settings.data_dir / FIRST_CREDENTIAL_FILE}. Next: agentidp serve")
