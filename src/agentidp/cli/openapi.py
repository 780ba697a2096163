"""`agentidp openapi`"""

import json

from agentidp.cli.settings import Config


def openapi(*, config: Config = None) -> None:
    """Print the OpenAPI 3.1 document that the server serves at /openapi.json."""
    from agentidp.app import ROUTES
    from agentidp.core.config import load
    from agentidp.documents import build_openapi

    print(json.dumps(json.loads(build_openapi(list(ROUTES), load(config).issuer)), indent=2))
