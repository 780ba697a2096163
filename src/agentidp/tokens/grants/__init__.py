"""One file per grant: its name and its handler."""

from agentidp.tokens.grants import client_credentials

GRANTS = {client_credentials.GRANT_TYPE: client_credentials.handle}
