"""What single lines of the checks of DPoP proofs hold up: the form of addresses, whose an id is, and what is looked at before what."""

from pathlib import Path

import httpx2
import pytest
from tests.proofs import TOKEN, nonce_of
from tests.serving import NO_TLS, RunningServer, settings_for
from tests.tenants import Tenant
from tests.tokens.test_dpop import KEY, OTHER_KEY, ask

from agentidp.auth.dpop import _normalized
from agentidp.auth.jws import InvalidToken


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://IdP.Example/api", "https://idp.example/api"),
        ("https://idp.example:443/api", "https://idp.example/api"),
        ("HTTPS://IDP.EXAMPLE:443/api", "https://idp.example/api"),
        ("http://idp.example:80/api", "http://idp.example/api"),
        ("https://idp.example", "https://idp.example/"),
        ("https://idp.example/api?a=b#c", "https://idp.example/api"),
    ],
)
def test_two_spellings_of_one_address(one: str, other: str) -> None:
    """Whichever of them the issuer is configured with."""
    assert _normalized(one) == _normalized(other)


@pytest.mark.parametrize(
    "other", ["https://idp.example:80/api", "https://idp.example:4443/api", "http://idp.example/api", "https://idp.example/API", "https://idp.example/api/"]
)
def test_two_addresses(other: str) -> None:
    assert _normalized("https://idp.example/api") != _normalized(other)


@pytest.mark.parametrize("char", [" ", "\t", "\n", "\r", "\x00", "\x1f", "\x7f", "é", "\u2028"])
@pytest.mark.parametrize("form", ["{}https://idp.example/api", "https://idp.exa{}mple/api", "https://idp.example/api{}"])
def test_what_a_parser_would_take_away(char: str, form: str) -> None:
    with pytest.raises(InvalidToken, match="characters"):
        _normalized(form.format(char))


def test_an_id_is_the_keys_own(tenant: Tenant, server: RunningServer) -> None:
    """Nobody uses up another's proofs."""
    nonce = nonce_of(server)
    proofs = [key.proof(server, "POST", TOKEN, nonce, jti="the same") for key in (KEY, OTHER_KEY)]
    assert [ask(tenant.admin, proof).status_code for proof in proofs] == [200, 200]
    assert [ask(tenant.admin, proof).status_code for proof in proofs] == [400, 400]


def test_without_a_nonce_no_signature_is_looked_at(tenant: Tenant, server: RunningServer) -> None:
    wrong = KEY.proof(server, "POST", TOKEN, None)[:-6] + "AAAAAA"
    assert ask(tenant.admin, wrong).json()["error"] == "use_dpop_nonce"


def test_a_page_of_another_origin_may_send_and_read_what_proofs_need(tmp_path: Path) -> None:
    origin = "https://app.example.com"
    running = RunningServer(settings_for(tmp_path / "data", None, cors={"origins": [origin]}))
    try:
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "dpop,authorization,content-type"}
        allowed = httpx2.options(running.url + TOKEN, headers=asked, verify=NO_TLS)  # answered by the framework: no response of ours
        with running.client() as client:
            assert {"dpop", "authorization", "content-type"} <= {name.strip().lower() for name in allowed.headers["access-control-allow-headers"].split(",")}
            proof = KEY.proof(running, "POST", TOKEN, None)
            answer = client.post(TOKEN, data={"grant_type": "client_credentials"}, headers={"Origin": origin, "DPoP": proof})
        exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert {"DPoP-Nonce", "WWW-Authenticate"} <= exposed
        assert answer.headers["dpop-nonce"]
    finally:
        running.stop()
