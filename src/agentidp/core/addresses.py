"""Which addresses that a tenant gives this server may call: the public internet only. Looks at what is written, asks no name server, sends nothing.

RFC 3986 for URLs, RFC 1123 for host names; the registries of special addresses are RFC 6890's, of special names RFC 6761's. What a name resolves to is checked by
`core.outgoing`, at each connection.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from agentidp.core import limits

Address = IPv4Address | IPv6Address
PORTS = frozenset({443, 8443})  # where servers with TLS are; nothing else is dialled for a tenant
Reason = Literal["length", "characters", "scheme", "userinfo", "fragment", "host", "port", "forbidden_address"]

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^#]*)(?P<fragment>#.*)?", re.ASCII)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]*\]|[^:\[\]]*)(?::(?P<port>.*))?", re.ASCII)
_PRINTABLE = re.compile(r"[!-~]*", re.ASCII)
_UNSAFE = re.compile(r'[\\"<>^`{|}]')  # no URL has these; some readers take the first for a slash
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)  # a name that ends so is read as an address by some: 127.1, 0x7f.1, 2130706433

_LOCAL_NAMES = frozenset(
    {"localhost", "localdomain", "local", "internal", "intranet", "private", "corp", "home", "lan", "home.arpa", "onion", "alt", "invalid"}
)
_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

# what is nobody's public server, beside what is_global knows, which differs between versions of Python
_NOT_PUBLIC_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",
            "100.64.0.0/10",  # shared by a carrier's customers
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure's metadata, at an address that looks public
            "169.254.0.0/16",  # link-local, metadata of most clouds
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarking
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
# global unicast is all that is handed out; mapped, compatible, NAT64, unique local, link-local, site-local and multicast addresses are outside
_GLOBAL_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, benchmarking, AMT, AS112, ORCHID
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: an IPv4 address is inside
            "2620:4f:8000::/48",  # AS112
            "3ffe::/16",  # 6bone, given back
            "3fff::/20",  # documentation
        ),
    )
)


class ForbiddenUrl(ValueError):
    """Not to be called. `reason` is for machines; the text is for people, and never repeats the URL."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Target:
    """What a checked URL says. `path` holds the query, too; `address` is there when the host is written as one, and then it is an allowed one."""

    scheme: Literal["http", "https"]
    host: str  # lower case, an IPv6 address without brackets
    port: int
    path: str
    address: Address | None
    is_loopback: bool  # named as loopback, which is allowed; whatever its name resolves to must be loopback, too
    is_anywhere: bool  # what its name resolves to may be any address

    @property
    def authority(self) -> str:
        """For the Host header: without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _own_port(self.scheme) else f"{host}:{self.port}"


def check_url(url: str, *, allow_loopback: bool, ports: Collection[int] = PORTS, anywhere: bool = False) -> Target:
    """Where this URL leads, if a tenant may have it called. Raises ForbiddenUrl.

    Refuses every spelling that two readers could understand differently, so that what is checked is what is called. `allow_loopback` lets
    http and any port through to the machine itself, where the URL says so: `localhost`, `127.0.0.1`, `[::1]`. `anywhere`: the operator has named whoever is there,
    so that it may be any host and port; with TLS, as all others.
    """
    if len(url) > limits.URL_CHARACTERS_MAX:
        raise ForbiddenUrl("length", f"A URL has at most {limits.URL_CHARACTERS_MAX} characters.")
    if not url.isascii():
        raise ForbiddenUrl("characters", "A URL has ASCII characters only: write the host name in its xn-- form, and the path percent-encoded.")
    if not _PRINTABLE.fullmatch(url) or _UNSAFE.search(url):
        raise ForbiddenUrl("characters", "A URL has no spaces, control characters, backslashes or quotes.")
    parts = _URL.fullmatch(url)
    scheme = parts["scheme"].lower() if parts else ""
    if parts is None or scheme not in {"http", "https"}:
        raise ForbiddenUrl("scheme", "A URL begins with https://.")
    if parts["fragment"] is not None:
        raise ForbiddenUrl("fragment", "A URL that is called has no fragment.")
    if "@" in parts["authority"]:
        raise ForbiddenUrl("userinfo", "A URL holds no user name or password.")
    authority = _AUTHORITY.fullmatch(parts["authority"])
    if authority is None or not authority["host"]:
        raise ForbiddenUrl("host", "A URL names a host.")
    host, address = _read_host(authority["host"].lower())
    is_loopback = allow_loopback and (is_loopback_address(address) if address else _is_below(host, "localhost"))
    if not is_loopback and not anywhere:
        _require_public(host, address)
    if not is_loopback and scheme != "https":
        raise ForbiddenUrl("scheme", "A URL begins with https://.")
    port = _read_port(authority["port"], scheme)
    if not is_loopback and not anywhere and port not in ports:
        raise ForbiddenUrl("port", f"A URL has one of the ports {', '.join(map(str, sorted(ports)))}.")
    path = parts["path"] if parts["path"].startswith("/") else f"/{parts['path']}"
    return Target("https" if scheme == "https" else "http", host, port, path, address, is_loopback, anywhere)


def is_public(address: Address) -> bool:
    """Whether this is the address of a server that anybody may reach. False for every IPv6 form with an IPv4 address inside, whichever it is."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    is_isatap = (int(address) >> 32) & 0xFDFFFFFF == 0x5EFE  # RFC 5214 section 6.1
    return address in _GLOBAL_6 and address.scope_id is None and not is_isatap and not any(address in network for network in _NOT_PUBLIC_6)


def is_loopback_address(address: Address) -> bool:
    """Not for an IPv6 form with 127.0.0.1 inside, which newer versions of Python call loopback."""
    return any(address in network for network in _LOOPBACK)


def _read_host(text: str) -> tuple[str, Address | None]:
    """The host in its one spelling, and the address if it is one."""
    if text.startswith("["):
        try:
            address: Address = IPv6Address(text[1:-1])
        except ValueError:
            raise ForbiddenUrl("host", "What stands in brackets is an IPv6 address.") from None
        return str(address), address
    labels = text.split(".")
    if len(text) > limits.HOST_CHARACTERS_MAX or not all(map(_LABEL.fullmatch, labels)):
        raise ForbiddenUrl("host", "A host name is of letters, digits and hyphens between dots, without a dot at the end; others have an xn-- form.")
    if not _NUMBER.fullmatch(labels[-1]):
        return text, None
    try:
        return text, IPv4Address(text)
    except ValueError:
        raise ForbiddenUrl("forbidden_address", "An IPv4 address is of four decimal numbers without leading zeros.") from None


def _require_public(host: str, address: Address | None) -> None:
    if address is not None and not is_public(address):
        raise ForbiddenUrl("forbidden_address", "This address is not a public one.")
    if address is None and ("." not in host or any(_is_below(host, name) for name in _LOCAL_NAMES)):
        raise ForbiddenUrl("forbidden_address", "This host name is not a public one.")


def _is_below(host: str, name: str) -> bool:
    return host == name or host.endswith(f".{name}")


def _read_port(text: str | None, scheme: str) -> int:
    if text is None:
        return _own_port(scheme)
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text, re.ASCII) or int(text) > 65535:
        raise ForbiddenUrl("port", "A port is a number from 1 to 65535.")
    return int(text)


def _own_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
