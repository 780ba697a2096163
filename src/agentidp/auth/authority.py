"""Is a token that we once signed still good? Reads what every revocation writes; if it cannot be read, the answer is never yes."""

import sqlalchemy as sa

from agentidp.auth.jwt import VerifiedClaims
from agentidp.db.schema import agents, credentials, organizations, revoked_tokens, signing_keys
from agentidp.db.unit import Tx


def is_alive(tx: Tx, token: VerifiedClaims) -> bool:
    """Whether organization, agent, credential, signing key and the token itself are all in force at `tx.now`."""
    query = (
        sa.select(agents.c.token_epoch)
        .join(organizations, organizations.c.organization_id == agents.c.organization_id)
        .join(
            credentials,
            sa.and_(
                credentials.c.organization_id == agents.c.organization_id,
                credentials.c.agent_id == agents.c.agent_id,
                credentials.c.credential_id == token.credential_id,
            ),
        )
        .join(signing_keys, signing_keys.c.key_id == token.key_id)
        .where(
            agents.c.organization_id == token.organization_id,
            agents.c.agent_id == token.agent_id,
            agents.c.status == "active",
            organizations.c.status == "active",
            credentials.c.revoked_at.is_(None),
            sa.or_(agents.c.expires_at.is_(None), agents.c.expires_at > tx.now),
            sa.or_(credentials.c.expires_at.is_(None), credentials.c.expires_at > tx.now),
            sa.or_(signing_keys.c.published_until.is_(None), signing_keys.c.published_until > tx.now),
            ~sa.exists().where(revoked_tokens.c.organization_id == token.organization_id, revoked_tokens.c.token_id == token.token_id),
        )
    )
    row = tx.one(query)
    return row is not None and row.token_epoch == token.epoch
