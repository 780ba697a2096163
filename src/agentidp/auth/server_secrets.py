"""Server-side secrets by name, made once and sealed under the master key."""

import os

import sqlalchemy as sa

from agentidp.core.secrets import Sealer
from agentidp.db.schema import server_secrets
from agentidp.db.unit import Tx

CLIENT_SECRET_KEY = "client_secret_hmac"  # noqa: S105 - a name
_BYTES = 32


def ensure_server_secret(tx: Tx, sealer: Sealer, name: str) -> bytes:
    """The 32 bytes of that name, made on first use. Raises WrongSettings when the master key is not the database's."""
    stored = sa.select(server_secrets.c.sealed_value).where(server_secrets.c.name == name)
    row = tx.one(stored)
    if row is None:
        fresh = sealer.seal(os.urandom(_BYTES), "server_secrets", "sealed_value", name)
        tx.insert_new(server_secrets, name=name, sealed_value=fresh, created_at=tx.now)
        row = tx.one(stored)  # another process may have been quicker
    assert row is not None
    return sealer.unseal(row.sealed_value, "server_secrets", "sealed_value", name)
