"""One file per grant: its name and its handler."""

from agentidp.tokens.grants import client_credentials, jwt_bearer, token_exchange

GRANTS = {grant.GRANT_TYPE: grant.handle for grant in (client_credentials, jwt_bearer, token_exchange)}
