"""What a partner may not be, and what its token may not claim."""

from typing import Any

import pytest

from agentidp.core.errors import InvalidFields
from agentidp.federation.rules import require_sound, wrong_with_organization

OWN, ORGANIZATION = "https://id.example.com", "0198c5a2-7d1e-7c3a-9f00-5b1d2e3f4a5b"
SPELLINGS = (
    ORGANIZATION,
    ORGANIZATION.upper(),
    f" {ORGANIZATION}\n",
    f"urn:uuid:{ORGANIZATION}",
    f"{{{ORGANIZATION}}}",
    ORGANIZATION.replace("-", ""),
)


def is_sound(**patch: Any) -> bool:
    try:
        require_sound(patch, own_issuer=OWN, own_organization_id=ORGANIZATION, now=0)
    except InvalidFields:
        return False
    return True


@pytest.mark.parametrize("issuer", ["", "/", ":443", ":443/", "/organizations/x", ":443/x", "/x?y", "/x#y"])
def test_a_partner_is_not_this_server(issuer: str) -> None:
    assert not is_sound(issuer=OWN + issuer)
    assert not is_sound(issuer=OWN.replace("id", "ID") + issuer)


@pytest.mark.parametrize(
    "issuer", ["https://id.example.com.evil.example", "https://id.example.com:8443", "https://xid.example.com", "https://example.com/id.example.com"]
)
def test_others_are_partners(issuer: str) -> None:
    assert is_sound(issuer=issuer)


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_nobody_speaks_for_the_organization_that_asks(spelled: str) -> None:
    assert not is_sound(allowed_organizations=["acme", spelled])
    for claims in ({"organization_id": spelled}, {"organization_id": "acme", "org": spelled}, {"org_id": "acme", "org": spelled}):
        assert "your own organization" in (wrong_with_organization(claims, (), ORGANIZATION) or "")


@pytest.mark.parametrize("value", [None, "", 1, True, ["acme"], {}])
@pytest.mark.parametrize("name", ["organization_id", "org_id", "org"])
def test_an_organization_is_text(name: str, value: Any) -> None:
    assert "not text" in (wrong_with_organization({"organization_id": "acme", "org_id": "acme", "org": "acme", name: value}, ("acme",), ORGANIZATION) or "")
