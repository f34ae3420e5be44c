"""Download from addresses that strangers name: only http(s), public hosts, and limits."""

import collections
import contextlib
import socket
import ssl
import struct
import threading
import time

try:
    from http.client import HTTPConnection, HTTPException, HTTPSConnection
    from urllib.parse import urljoin, urlsplit
except ImportError:  # Python 2
    from httplib import HTTPConnection, HTTPException, HTTPSConnection
    from urlparse import urljoin, urlsplit

from modelhublib.errors import error_line

Limits = collections.namedtuple("Limits", "max_bytes max_seconds allow_private")

_MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_BLOCK = 65536
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "modelhub"}

# Every IPv4 network that is not the public internet. IPv6 is turned round: 2000::/3 is public, less these.
_PRIVATE_V4 = ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
               "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
               "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3")
_PUBLIC_V6 = "2000::/3"
_PRIVATE_V6 = ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")


class FetchError(Exception):
    """The address may not be used, or what it gave can't be."""


def is_url(text):
    """True if text is an http or https address."""
    return text.strip().lower().startswith(("http://", "https://"))


def fetch(url, stream, limits):
    """Write what url gives to stream, a file opened for writing bytes; raises FetchError.

    Each host is looked up once, its addresses are checked, and the connection goes to one of those:
    a name that answers differently the second time gains nothing. Redirects are checked likewise.
    """
    deadline = time.time() + limits.max_seconds
    try:
        for _ in range(_MAX_REDIRECTS + 1):
            url = _fetch_once(url.strip(), stream, limits, deadline)
            if url is None:
                return
    except (HTTPException, socket.error, ssl.SSLError, ValueError, UnicodeError) as error:
        raise FetchError("%s could not be fetched: %s" % (url, error_line(error)))
    raise FetchError("more than %d redirects" % _MAX_REDIRECTS)


def is_public(address):
    """True if an IP address (text) belongs to the public internet."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    number = _number(address.split("%")[0], family)
    if family == socket.AF_INET:
        return not any(_is_within(number, network, family) for network in _PRIVATE_V4)
    return _is_within(number, _PUBLIC_V6, family) and not any(
        _is_within(number, network, family) for network in _PRIVATE_V6)


def _fetch_once(url, stream, limits, deadline):
    """Fetch url into stream and return None, or return the address it redirects to."""
    parts = urlsplit(url)
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise FetchError("only http and https addresses without a password can be fetched, not %s" % url)
    connection = _connect(parts, limits, deadline)
    # A socket's timeout starts again with every byte; this ends the whole thing. Over a copy of the
    # descriptor, because Python 2 gives up its own socket while the response is still being read.
    line = socket.fromfd(connection.sock.fileno(), socket.AF_INET, socket.SOCK_STREAM)
    late = threading.Event()
    watchdog = threading.Timer(max(0.01, deadline - time.time()), _hang_up, [line, late])
    watchdog.daemon = True
    watchdog.start()
    try:
        connection.request("GET", _target(parts), headers=_HEADERS)
        with contextlib.closing(connection.getresponse()) as response:
            if response.status in _REDIRECTS and response.getheader("Location"):
                return urljoin(url, response.getheader("Location"))
            _copy(response, stream, limits, url)
    except (FetchError, HTTPException, socket.error, ValueError):
        if late.is_set():
            raise FetchError("%s took longer than %g s" % (url, limits.max_seconds))
        raise
    finally:
        watchdog.cancel()
        connection.close()
        line.close()
    return None


def _connect(parts, limits, deadline):
    """Return an HTTP connection to one checked address of the host."""
    secure = parts.scheme.lower() == "https"
    port = parts.port or (443 if secure else 80)
    address = _checked_address(parts.hostname, port, limits.allow_private)
    timeout = max(0.01, deadline - time.time())
    raw = socket.create_connection((address, port), timeout)
    try:
        connection = (HTTPSConnection if secure else HTTPConnection)(parts.hostname, port, timeout=timeout)
        connection.sock = raw
        if secure:
            connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=parts.hostname)
    except Exception:
        raw.close()
        raise
    return connection


def _checked_address(host, port, allow_private):
    """Return an IP address of host; FetchError if any of its addresses is not public."""
    found = [info[4][0] for info in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)]
    if not allow_private and not all(is_public(address) for address in found):
        raise FetchError("%s is not on the public internet, and only hosts there may be named" % host)
    return found[0]


def _target(parts):
    return (parts.path or "/") + ("?" + parts.query if parts.query else "")


def _copy(response, stream, limits, url):
    """Copy the body to stream; FetchError unless it is a plain, complete answer within the size limit."""
    if response.status != 200:
        raise FetchError("%s answered with status %d" % (url, response.status))
    if response.getheader("Content-Encoding", "identity").lower() != "identity":
        raise FetchError("%s answered in an encoding that was not asked for" % url)
    declared = response.getheader("Content-Length")
    copied = 0
    while True:
        block = response.read(_BLOCK)
        if not block:
            break
        copied += len(block)
        if copied > limits.max_bytes:
            raise FetchError("%s gives more than the limit of %d bytes" % (url, limits.max_bytes))
        stream.write(block)
    if declared is not None and copied != int(declared):
        raise FetchError("%s broke off after %d of %s bytes" % (url, copied, declared))


def _hang_up(line, late):
    late.set()
    try:
        line.shutdown(socket.SHUT_RDWR)
    except (socket.error, OSError):  # it was closed in the meantime
        return


def _number(address, family):
    high_low = struct.unpack("!QQ", socket.inet_pton(family, address).rjust(16, b"\0"))
    return high_low[0] << 64 | high_low[1]


def _is_within(number, network, family):
    base, prefix = network.split("/")
    shift = (32 if family == socket.AF_INET else 128) - int(prefix)
    return number >> shift == _number(base, family) >> shift
