"""Looking partners up, always within one organization."""

from typing import Any

import sqlalchemy as sa

from agentidp.core.ids import is_id
from agentidp.db.paging import PageRequest, RowPage, fetch_page
from agentidp.db.schema import federation_partners
from agentidp.db.unit import Tx
from agentidp.federation.rules import Partner, PartnerNotFound, partner_status
from agentidp.organizations.queries import get_organization


def get_partner(tx: Tx, partner_id: str) -> Partner:
    """Raises PartnerNotFound."""
    row = tx.one(_mine(tx).where(federation_partners.c.partner_id == partner_id)) if is_id(partner_id) else None
    if row is None:
        raise PartnerNotFound
    return to_partner(row, tx.now)


def get_partner_as_administrator(tx: Tx, partner_id: str) -> Partner:
    """Raises Forbidden, PartnerNotFound."""
    get_organization(tx)
    return get_partner(tx, partner_id)


def find_partner_by_issuer(tx: Tx, unverified_issuer: str) -> Partner | None:
    """The issuer may be any text; one that no partner can have does not reach the database."""
    if not (unverified_issuer.isascii() and unverified_issuer.isprintable()):
        return None
    row = tx.one(_mine(tx).where(federation_partners.c.issuer == unverified_issuer))
    return None if row is None else to_partner(row, tx.now)


def list_partners(tx: Tx, request: PageRequest) -> RowPage:
    return fetch_page(tx, _mine(tx), federation_partners.c.partner_id, request)


def count_partners(tx: Tx) -> int:
    return tx.connection.scalar(sa.select(sa.func.count()).select_from(_mine(tx).subquery())) or 0


def to_partner(row: sa.Row[Any], now: int) -> Partner:
    return Partner(
        partner_id=row.partner_id,
        name=row.name,
        issuer=row.issuer,
        jwks_uri=row.jwks_uri,
        allowed_organizations=row.allowed_organizations,
        status=partner_status(row.status, row.expires_at, now),
        expires_at=row.expires_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _mine(tx: Tx) -> sa.Select[Any]:
    return sa.select(federation_partners).where(federation_partners.c.organization_id == tx.caller.organization_id)
