"""IP addresses and networks."""

from __future__ import annotations

import functools
import ipaddress

from mta.rules.outside.lists import Ip, Ranges
from mta.rules.words.pure import Declared, declare, lua

# What no mail from the outside can come from: RFC 1918, 6598, 3927, 1122, 5735, 4193, 4291, 6890
PRIVATE = (
    "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 169.254.0.0/16 127.0.0.0/8 0.0.0.0/8 192.0.0.0/24 "
    "198.18.0.0/15 192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 "
    "::1 :: fc00::/7 fe80::/10 ff00::/8 2001:db8::/32"
)


@functools.lru_cache(maxsize=4096)
def _ip(text: str) -> Ip:
    """An address, also as a literal ([IPv6:...]); one of IPv4 in IPv6's clothes is one of IPv4. Raises ValueError."""
    bare = text.strip()
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
        bare = bare[5:] if bare[:5].lower() == "ipv6:" else bare
    try:
        ip = ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not an IP address") from None
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip


@functools.lru_cache(maxsize=1024)
def _ranges(text: str) -> Ranges:
    ranges = Ranges()
    for one in text.replace(",", " ").split():
        try:
            ranges.add(one, (one,))
        except ValueError as error:
            raise ValueError(f"{one[:60]!r} is no network: {error}") from None
    return ranges


@lua
def is_ip(text: str) -> bool:
    try:
        _ip(text)
    except ValueError:
        return False
    return True


@lua
def version(ip: str) -> int:
    """4 or 6."""
    return _ip(ip).version


@lua
def inside(ip: str, networks: str) -> bool:
    """Whether an address lies in one of these: "10.0.0.0/8 192.0.2.1-192.0.2.9 2001:db8::/32"."""
    return _ranges(networks).find(_ip(ip)) is not None


@lua
def is_private(ip: str) -> bool:
    """Whether an address cannot be reached over the Internet: private, loopback, link-local, for documentation."""
    return _ranges(PRIVATE).find(_ip(ip)) is not None


@lua
def network(ip: str, bits4: int | None = None, bits6: int | None = None) -> str:
    """The network of 24 (IPv6: 64) bits an address lies in: "192.0.2.0/24"."""
    address = _ip(ip)
    given, usual = (bits4, 24) if address.version == 4 else (bits6, 64)
    bits = usual if given is None else given
    if not 0 <= bits <= address.max_prefixlen:
        raise ValueError(f"a network of IPv{address.version} has 0 to {address.max_prefixlen} bits, not {bits}")
    return str(ipaddress.ip_network((address, bits), strict=False))


@lua
def reverse(ip: str, zone: str = "") -> str:
    """The name under which a DNS list is asked for an address: 2.0.0.127.zone (RFC 5782 2.1, 2.4).

    Without a zone: the name of its PTR record, in in-addr.arpa or ip6.arpa.
    """
    pointer = _ip(ip).reverse_pointer
    return f"{pointer.rsplit('.', 2)[0]}.{zone.strip('.')}" if zone else pointer


@lua
def plain(ip: str) -> str:
    """An address in its one canonical form (RFC 5952)."""
    return str(_ip(ip))


WORDS: list[Declared] = [
    declare(
        "net.is_ip(text: string) -> boolean",
        "Whether this is an IP address.",
        'assert(net.is_ip("2001:db8::1") and not net.is_ip("example.com"))',
        is_ip,
    ),
    declare(
        "net.version(ip: string) -> integer?, string?", "4 or 6.", "assert(net.version(mail.client.ip) == 4)", version
    ),
    declare(
        "net.inside(ip: string, networks: string) -> boolean?, string?",
        'Whether an address lies in one of these networks, addresses and ranges: "10.0.0.0/8 192.0.2.1-192.0.2.9".',
        'assert(net.inside(mail.client.ip, "10.0.0.0/8 192.0.2.0/24"))',
        inside,
    ),
    declare(
        "net.is_private(ip: string) -> boolean?, string?",
        "Whether an address cannot be reached over the Internet: private, loopback, link-local, for documentation.",
        'assert(net.is_private("192.168.1.1") and not net.is_private("8.8.8.8"))',
        is_private,
    ),
    declare(
        "net.network(ip: string, bits4?: integer, bits6?: integer) -> string?, string?",
        "The network an address lies in: of 24 bits, 64 for IPv6, unless given.",
        'assert(net.network(mail.client.ip) == "192.0.2.0/24")',
        network,
    ),
    declare(
        "net.reverse(ip: string, zone?: string) -> string?, string?",
        "The name of an address's PTR record, or that under which a DNS list is asked for it.",
        'assert(net.reverse("192.0.2.7", "zen.example.test") == "7.2.0.192.zen.example.test")',
        reverse,
    ),
    declare(
        "net.plain(ip: string) -> string?, string?",
        "An address in its one canonical form.",
        'assert(net.plain("2001:DB8:0::1") == "2001:db8::1")',
        plain,
    ),
]
