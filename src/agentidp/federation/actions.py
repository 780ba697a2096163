"""Adding, changing and removing partners: for the organization's administrators. Whether a partner's keys can be had is looked at before, outside of the unit of work."""

from typing import Any

import sqlalchemy as sa

from agentidp.agents.rules import OrganizationNotActive
from agentidp.core import limits
from agentidp.core.ids import new_id
from agentidp.db.schema import federation_partners
from agentidp.db.unit import Tx
from agentidp.federation.queries import count_partners, find_partner_by_issuer, get_partner
from agentidp.federation.rules import IssuerTaken, NewPartner, Partner, TooManyPartners, Verification
from agentidp.organizations.queries import lock_organization


def require_room(tx: Tx, issuer: str) -> None:
    """For another partner. Raises TooManyPartners, IssuerTaken."""
    if count_partners(tx) >= limits.FEDERATION_PARTNERS_MAX:
        raise TooManyPartners
    if find_partner_by_issuer(tx, issuer) is not None:
        raise IssuerTaken


def add_partner(tx: Tx, new: NewPartner) -> Partner:
    """Raises Forbidden, OrganizationNotActive, TooManyPartners, IssuerTaken."""
    if lock_organization(tx).status != "active":  # it was when the call came in
        raise OrganizationNotActive
    require_room(tx, new.issuer)
    partner_id = new_id(tx.now)
    tx.run(
        sa.insert(federation_partners).values(
            organization_id=tx.caller.organization_id,
            partner_id=partner_id,
            name=new.name,
            issuer=new.issuer,
            jwks_uri=new.jwks_uri,
            allowed_organizations=list(new.allowed_organizations),
            status="active",
            expires_at=new.expires_at,
            created_at=tx.now,
            updated_at=tx.now,
        )
    )
    tx.record("federation.partner_added", "partner", partner_id, issuer=new.issuer, jwksUri=new.jwks_uri)
    return get_partner(tx, partner_id)


def update_partner(tx: Tx, partner_id: str, patch: dict[str, Any]) -> Partner:
    """Change the named columns; the next verification goes by them. Raises Forbidden, PartnerNotFound."""
    lock_organization(tx)
    stored = get_partner(tx, partner_id)
    changed = {name: value for name, value in patch.items() if getattr(stored, name) != value}
    if changed:
        mine = sa.and_(federation_partners.c.organization_id == tx.caller.organization_id, federation_partners.c.partner_id == partner_id)
        tx.run(sa.update(federation_partners).where(mine).values(**changed, updated_at=tx.now))
        tx.record("federation.partner_updated", "partner", partner_id, fields=sorted(changed))
    return get_partner(tx, partner_id)


def remove_partner(tx: Tx, partner_id: str) -> None:
    """Raises Forbidden, PartnerNotFound."""
    lock_organization(tx)
    partner = get_partner(tx, partner_id)
    mine = sa.and_(federation_partners.c.organization_id == tx.caller.organization_id, federation_partners.c.partner_id == partner_id)
    tx.run(sa.delete(federation_partners).where(mine))
    tx.record("federation.partner_removed", "partner", partner_id, issuer=partner.issuer)


def record_verification(tx: Tx, found: Verification, *, subject: str | None) -> None:
    """That somebody asked, and what the answer was: of a token that is not valid, nothing that it says. `subject` in printable form."""
    target = () if found.partner_id is None else ("partner", found.partner_id)
    tx.record("federation.verified", *target, valid=found.valid, reason=found.reason, issuer=found.issuer, subject=subject)
