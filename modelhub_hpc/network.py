"""By which of its addresses other machines reach this one."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from modelhub_hpc.errors import UnfitError, UsageError

_ANY_PORT = 9  # nothing is sent there
_SIOCGIFADDR = 0x8915
# reserved for documentation, so that only a default route leads there
_ELSEWHERE = ("192.0.2.1", "198.51.100.1", "2001:db8::1")
_MEND = "Name the network that this machine shares with the nodes: --interface ib0, or 'interface' in mh-hpc.yaml."
_GLOBAL_SCOPE = "00"  # of the kernel's table of IPv6 addresses


def address_towards(host: str) -> str:
    """This machine's address on the way to `host` (a name or an address), which need not answer.

    If `host` is this machine by name, its address for others, though /etc/hosts may say 127.0.1.1. A loopback address
    is the answer only if `host` is one, or if this machine has no other. Raises UnfitError.
    """
    found = next(_sources(_resolved(host)), None)
    if found is None:
        raise UnfitError(f"No network of this machine leads to {host}.\n{_MEND}")
    if _is_loopback(found) and not _is_loopback(host):
        return next(_for_others(), found)
    return found


def address_of(interface: str) -> str:
    """The address of a network interface such as ib0, IPv4 if it has one. Raises UsageError naming those there are."""
    found = next(_addresses(interface), None)
    if found:
        return found
    exists = interface in (name for _, name in socket.if_nameindex())
    trouble = "has no address here" if exists else "does not exist here"
    usable = ", ".join(f"{name} ({address})" for name, address in addresses().items())
    raise UsageError(f"The network interface {interface} {trouble}.\nThose with one: {usable or 'none'}")


def addresses() -> dict[str, str]:
    """The address of every network interface that has one."""
    found = ((name, next(_addresses(name), None)) for _, name in socket.if_nameindex())
    return {name: address for name, address in found if address}


def refuses(host: str, port: int, wait_s: float = 10.0) -> bool:
    """Whether nothing listens there, as far as the other machine says so; one that is silent may only be slow."""
    try:
        socket.create_connection((host, port), timeout=wait_s).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _resolved(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses of a host, IPv4 first: SLURM uses nothing else unless told so."""
    try:
        found = socket.getaddrinfo(host, _ANY_PORT, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise UnfitError(f"The name {host!r} has no address on this machine: {error}\n{_MEND}") from error
    pairs = [(family, str(where[0])) for family, _, _, _, where in found]
    return sorted(pairs, key=lambda pair: pair[0] != socket.AF_INET)


def _sources(targets: list[tuple[socket.AddressFamily, str]]) -> Iterator[str]:
    """The address that the kernel would send from, for each of these that it has a way to."""
    for family, target in targets:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            # a UDP socket is connected without sending anything
            probe.connect((target, _ANY_PORT))
            yield str(probe.getsockname()[0])


def _for_others() -> Iterator[str]:
    """Addresses that are not for this machine alone: that of the default route, then those of the interfaces."""
    kinds = {True: socket.AF_INET6, False: socket.AF_INET}
    yield from _sources([(kinds[":" in address], address) for address in _ELSEWHERE])
    for _, interface in socket.if_nameindex():
        yield from (address for address in _addresses(interface) if not _is_loopback(address))


def _addresses(interface: str) -> Iterator[str]:
    """IPv4 first. Not link-local IPv6, which would need the name of an interface of the other machine."""
    name = interface.encode("utf-8", "surrogateescape")
    if not 0 < len(name) < 16:  # longest that the kernel takes, which would cut it
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name))
        yield socket.inet_ntoa(answer[20:24])
    with contextlib.suppress(OSError):  # without IPv6 there is no such table
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits, _, _, scope, _, owner = line.split()
            if owner == interface and (scope == _GLOBAL_SCOPE or owner == "lo"):
                yield str(ipaddress.IPv6Address(int(digits, 16)))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # any other name may stand for anything
