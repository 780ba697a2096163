"""What a tenant may have called: hostile spellings of internal addresses one by one, and every special range whole."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentidp.core import limits
from agentidp.core.addresses import Address, ForbiddenUrl, Target, check_url, is_public

ALLOWED = {
    "https://hooks.example.com": ("hooks.example.com", 443, "/"),
    "https://hooks.example.com/a/b?c=d&e=%20": ("hooks.example.com", 443, "/a/b?c=d&e=%20"),
    "HTTPS://Hooks.Example.COM/A": ("hooks.example.com", 443, "/A"),
    "https://hooks.example.com:443/": ("hooks.example.com", 443, "/"),
    "https://hooks.example.com:8443/": ("hooks.example.com", 8443, "/"),
    "https://hooks.example.com?x=http://127.0.0.1/": ("hooks.example.com", 443, "/?x=http://127.0.0.1/"),
    "https://hooks.example.com/@127.0.0.1": ("hooks.example.com", 443, "/@127.0.0.1"),
    "https://xn--bcher-kva.example/": ("xn--bcher-kva.example", 443, "/"),
    "https://1.2.3.4.example.com/": ("1.2.3.4.example.com", 443, "/"),
    "https://127.0.0.1.nip.io/": ("127.0.0.1.nip.io", 443, "/"),  # a name, whose addresses are looked at when it is called
    "https://localhost.example.com/": ("localhost.example.com", 443, "/"),
    "https://a.mylocal/.local": ("a.mylocal", 443, "/.local"),
    "https://8.8.8.8/": ("8.8.8.8", 443, "/"),
    "https://[2606:4700:4700::1111]/": ("2606:4700:4700::1111", 443, "/"),
    "https://[2606:4700:4700:0:0:0:0:1111]:8443/": ("2606:4700:4700::1111", 8443, "/"),
    f"https://{'a' * 63}.example/": (f"{'a' * 63}.example", 443, "/"),
}

INTERNAL = [
    "https://127.0.0.1/",
    "https://127.1/",
    "https://127.0.1/",
    "https://2130706433/",
    "https://017700000001/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0x7f.0x0.0x0.0x1/",
    "https://0177.0.0.1/",
    "https://127.0.0.01/",
    "https://127.00.0.1/",
    "https://0.0.0.0/",
    "https://0/",
    "https://0x/",
    "https://4294967295/",
    "https://99999999999/",
    "https://256.256.256.256/",
    "https://1.2.3.4.5/",
    "https://example.127/",
    "https://example.0x7f/",
    "https://10.0.0.1/",
    "https://10.1/",
    "https://172.16.0.1/",
    "https://172.31.255.255/",
    "https://192.168.1.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://2852039166/",
    "https://0xA9FEA9FE/",
    "https://168.63.129.16/",
    "https://100.64.0.1/",
    "https://100.100.100.200/",
    "https://192.0.0.192/",
    "https://198.18.0.1/",
    "https://224.0.0.1/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://[::1]/",
    "https://[::]/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[::127.0.0.1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::FFFF:8.8.8.8]/",
    "https://[64:ff9b::127.0.0.1]/",
    "https://[64:ff9b::8.8.8.8]/",
    "https://[64:ff9b:1::a00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[2002:808:808::]/",
    "https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    "https://[2606:4700::5efe:a00:1]/",
    "https://[2606:4700::200:5efe:a00:1]/",
    "https://[fe80::1]/",
    "https://[fec0::1]/",
    "https://[fc00::1]/",
    "https://[fd00:ec2::254]/",
    "https://[ff02::1]/",
    "https://[2001:db8::1]/",
    "https://localhost/",
    "https://LOCALHOST/",
    "https://a.localhost/",
    "https://localhost.localdomain/",
    "https://printer.local/",
    "https://metadata.google.internal/",
    "https://host.docker.internal/",
    "https://router.home.arpa/",
    "https://wiki.corp/",
    "https://nas.lan/",
    "https://vault/",
    "https://kubernetes/",
    "http://127.0.0.1/",
    "http://localhost/",
    "https://127.0.0.1:22/",
]

MALFORMED = {
    "": "scheme",
    "hooks.example.com": "scheme",
    "//hooks.example.com/": "scheme",
    "https:hooks.example.com": "scheme",
    "https:/hooks.example.com/": "scheme",
    "http://hooks.example.com/": "scheme",
    "ftp://hooks.example.com/": "scheme",
    "file:///etc/passwd": "scheme",
    "gopher://127.0.0.1:6379/_": "scheme",
    "javascript:alert(1)": "scheme",
    "https+unix://hooks.example.com/": "scheme",
    "view-source:https://hooks.example.com/": "scheme",
    "https://": "host",
    "https:///path": "host",
    "https://:443/": "host",
    "https://?x": "host",
    "https://.example.com/": "host",
    "https://example..com/": "host",
    "https://example.com./": "host",
    "https://localhost./": "host",
    "https://127.0.0.1./": "host",
    "https://-a.example.com/": "host",
    "https://a-.example.com/": "host",
    "https://a_b.example.com/": "host",
    "https://*.example.com/": "host",
    "https://127.0.0.1%2f.example.com/": "host",
    "https://%31%32%37.0.0.1/": "host",
    "https://127.0.0.1%00.example.com/": "host",
    "https://hooks.example.com%20/": "host",
    "https://hooks,example.com/": "host",
    "https://hooks.example.com;127.0.0.1/": "host",
    "https://hooks!example.com/": "host",
    "https://[::1/": "host",
    "https://::1/": "host",
    "https://[]/": "host",
    "https://[v1.x]/": "host",
    "https://[127.0.0.1]/": "host",
    "https://[::1]x/": "host",
    "https://[fe80::1%25eth0]/": "host",
    "https://[fe80::1%eth0]/": "host",
    "https://[2606:4700:4700::1111]443/": "host",
    f"https://{'a' * 64}.example/": "host",
    f"https://{'a.' * 127}example/": "host",
    "https://hooks.example.com:/": "port",
    "https://hooks.example.com:0/": "port",
    "https://hooks.example.com:80/": "port",
    "https://hooks.example.com:22/": "port",
    "https://hooks.example.com:0443/": "port",
    "https://hooks.example.com:+443/": "port",
    "https://hooks.example.com:443a/": "port",
    "https://hooks.example.com:443:443/": "port",
    "https://hooks.example.com:65536/": "port",
    "https://hooks.example.com:99999999999999999999/": "port",
    "https://user@hooks.example.com/": "userinfo",
    "https://user:password@hooks.example.com/": "userinfo",
    "https://@hooks.example.com/": "userinfo",
    "https://hooks.example.com@127.0.0.1/": "userinfo",
    "https://127.0.0.1:80@hooks.example.com/": "userinfo",
    "https://hooks.example.com:443@127.0.0.1/": "userinfo",
    "https://hooks.example.com#@127.0.0.1/": "fragment",
    "https://hooks.example.com/#": "fragment",
    "https://hooks.example.com/#a": "fragment",
    " https://hooks.example.com/": "characters",
    "https://hooks.example.com/ ": "characters",
    "https://hooks.example.com/\n": "characters",
    "https://hooks.example.com/a b": "characters",
    "https://127.0.0.1\t/": "characters",
    "ht\ntps://hooks.example.com/": "characters",
    "https://hooks.example.com/\r\nX-Injected: 1": "characters",
    "https://hooks.example.com\x00.internal/": "characters",
    "https://hooks.example.com\x7f/": "characters",
    "https://127.0.0.1\\@hooks.example.com/": "characters",
    "https:\\\\hooks.example.com/": "characters",
    "https://hooks.example.com\\.internal/": "characters",
    'https://hooks.example.com/"': "characters",
    "https://hooks.example.com/<script>": "characters",
    "https://hooks.example.com/`id`": "characters",
    "https://bücher.example/": "characters",
    "https://１２７.0.0.1/": "characters",  # full-width digits
    "https://①②⑦.0.0.1/": "characters",
    "https://127。0。0。1/": "characters",
    "https://ⓛocalhost/": "characters",
    "https://hooks.example.com／@127.0.0.1/": "characters",
    "https://hooks.example.com/\u202e": "characters",
    "https://hooks.example.com/\ud800": "characters",
    "\ufeffhttps://hooks.example.com/": "characters",
    "https://hooks.example.com/" + "a" * limits.URL_CHARACTERS_MAX: "length",
    "https://" + "1" * 10_000_000: "length",
}

NOT_PUBLIC = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "168.63.129.16/32",
    "::/128",
    "::1/128",
    "::/96",
    "::ffff:0:0/96",
    "::ffff:0:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/32",
    "2001:1::1/128",
    "2001:1::2/128",
    "2001:2::/48",
    "2001:3::/32",
    "2001:4:112::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:30::/28",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3ffe::/16",
    "3fff::/20",
    "4000::/2",
    "5f00::/16",
    "8000::/1",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]


@pytest.mark.parametrize("url", ALLOWED)
def test_a_public_address_has_one_reading(url: str) -> None:
    target = check_url(url, allow_loopback=False)
    assert (target.host, target.port, target.path) == ALLOWED[url]
    assert target.scheme == "https"
    assert not target.is_loopback


@pytest.mark.parametrize("url", INTERNAL)
def test_an_internal_address_is_refused_in_every_spelling(url: str) -> None:
    with pytest.raises(ForbiddenUrl) as refused:
        check_url(url, allow_loopback=False)
    assert refused.value.reason == "forbidden_address"


@pytest.mark.parametrize("url", MALFORMED, ids=lambda url: ascii(url[:60]))
@pytest.mark.parametrize("allow_loopback", [False, True])
def test_what_can_be_read_in_two_ways_is_refused(url: str, allow_loopback: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with pytest.raises(ForbiddenUrl) as refused:
        check_url(url, allow_loopback=allow_loopback)
    assert refused.value.reason == MALFORMED[url]
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize(
    "url", ["http://localhost:9000/a", "http://a.localhost/", "http://127.0.0.1:1/", "http://127.9.8.7/", "http://[::1]:8080/", "https://localhost:9/"]
)
def test_loopback_is_let_through_where_it_is_allowed(url: str) -> None:
    assert check_url(url, allow_loopback=True).is_loopback
    with pytest.raises(ForbiddenUrl):
        check_url(url, allow_loopback=False)


@pytest.mark.parametrize("url", sorted({url for url in INTERNAL if "//127.0.0.1" not in url and "localhost/" not in url.lower() and url != "https://[::1]/"}))
def test_allowing_loopback_allows_nothing_else(url: str) -> None:
    if url == "https://[0:0:0:0:0:0:0:1]/":  # the same address, in a spelling that cannot be misread
        assert check_url(url, allow_loopback=True).host == "::1"
        return
    with pytest.raises(ForbiddenUrl):
        check_url(url, allow_loopback=True)


def test_the_sentence_says_what_to_do_and_repeats_nothing() -> None:
    with pytest.raises(ForbiddenUrl, match="xn--"):
        check_url("https://bücher.example/", allow_loopback=False)
    with pytest.raises(ForbiddenUrl) as refused:
        check_url("https://hunter2@example.com/", allow_loopback=False)
    assert "hunter2" not in str(refused.value)


def test_host_header() -> None:
    assert check_url("https://Example.com:443/", allow_loopback=False).authority == "example.com"
    assert check_url("https://example.com:8443/", allow_loopback=False).authority == "example.com:8443"
    assert check_url("https://[2606:4700::1]:8443/", allow_loopback=False).authority == "[2606:4700::1]:8443"
    assert check_url("http://localhost/", allow_loopback=True).authority == "localhost"


@pytest.mark.parametrize("network", NOT_PUBLIC)
def test_the_ends_of_every_special_range_are_not_public(network: str) -> None:
    whole = ip_network(network)
    assert not is_public(whole[0])
    assert not is_public(whole[-1])
    assert not is_public(whole[whole.num_addresses // 2])


def address_in(network: IPv4Network | IPv6Network) -> st.SearchStrategy[Address]:
    return st.integers(0, network.num_addresses - 1).map(lambda offset: network[offset])


@given(st.sampled_from(NOT_PUBLIC).map(ip_network).flatmap(address_in))
def test_nothing_in_a_special_range_is_public(address: Address) -> None:
    assert not is_public(address)
    with pytest.raises(ForbiddenUrl):
        check_url(f"https://[{address}]/" if address.version == 6 else f"https://{address}/", allow_loopback=False)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_what_is_public_is_global_and_in_no_special_range(address: Address) -> None:
    if is_public(address):
        assert address.is_global
        assert not any(address in ip_network(network) for network in NOT_PUBLIC)


@given(st.ip_addresses(v=4), st.sampled_from(["::{}", "::ffff:{}", "::ffff:0:{}", "64:ff9b::{}", "2606:4700::5efe:{}", "2606:4700::200:5efe:{}"]))
def test_no_form_with_an_ipv4_address_inside_is_public(inside: IPv4Address, form: str) -> None:
    assert not is_public(IPv6Address(form.format(inside)))


@pytest.mark.parametrize(
    "text",
    ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "198.17.255.255", "198.20.0.0", "223.255.255.255"],
)
def test_what_lies_beside_the_special_ranges_is_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", ["2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "2001:200::1", "2001:4860:4860::8888", "2400:cb00::1", "2620:fe::fe"])
def test_global_unicast_is_public(text: str) -> None:
    assert is_public(ip_address(text))
    assert not is_public(IPv6Address(f"{text}%eth0"))


@given(st.text(max_size=100), st.booleans())
def test_whatever_is_written_is_checked_or_refused(text: str, allow_loopback: bool) -> None:  # noqa: FBT001 - hypothesis hands it over
    for url in (text, f"https://{text}", f"https://{text}/", f"https://example.com{text}"):
        try:
            target = check_url(url, allow_loopback=allow_loopback)
        except ForbiddenUrl:
            continue
        assert isinstance(target, Target)
        assert target.path.startswith("/")
        assert target.path.isascii()
        assert target.path.isprintable()
        assert target.is_loopback or (target.port in {443, 8443} and target.scheme == "https")
