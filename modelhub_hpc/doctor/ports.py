"""Whether one machine reaches a port of another."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from modelhub_hpc import network
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.doctor.exchange import Knock, Place

_FIRST_S, _OTHERS_S = 5.0, 2.0  # a firewall that drops what it does not like lets one wait
_MOST_OTHERS = 4
_LOOK_S = 0.2
_LONGEST = 1000


def candidates(site: SiteConfig, controller: str) -> list[Place]:
    """The address that a run would use on this machine, then its others, which may do where the first does not.

    Raises UsageError or UnfitError.
    """
    chosen = network.address_of(site.interface) if site.interface else network.address_towards(controller)
    others = [(name, address) for name, address in network.addresses().items() if address != chosen and name != "lo"]
    more = [Place(address, 0, name) for name, address in others[:_MOST_OTHERS]]
    return [Place(chosen, 0, site.interface or ""), *more]


@contextlib.contextmanager
def answering(places: Iterable[Place], token: str) -> Iterator[list[Place]]:
    """Open a port at each of these addresses; whoever connects is told the token and the time. Yields those open."""
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        opened = []
        for place in places:
            with contextlib.suppress(OSError):
                family = socket.AF_INET6 if ":" in place.address else socket.AF_INET
                listener = socket.create_server((place.address, 0), family=family)
                stack.callback(listener.close)
                listener.setblocking(False)
                selector.register(listener, selectors.EVENT_READ)
                opened.append(Place(place.address, listener.getsockname()[1], place.interface))
        over = threading.Event()
        thread = threading.Thread(target=_answer, args=(selector, token, over), daemon=True)
        thread.start()
        try:
            yield opened
        finally:
            over.set()
            thread.join()


def _answer(selector: selectors.BaseSelector, token: str, over: threading.Event) -> None:
    while not over.is_set():
        for key, _ in selector.select(_LOOK_S):
            assert isinstance(key.fileobj, socket.socket)
            with contextlib.suppress(OSError):
                guest, _ = key.fileobj.accept()
                with guest:
                    guest.settimeout(_FIRST_S)
                    guest.sendall(json.dumps([token, time.time()]).encode())


def knock_at(places: Sequence[Place], token: str) -> list[Knock]:
    """Connect to the first of these places; where that does not work, to all others too."""
    tried: list[Knock] = []
    for place in places:
        tried.append(_knock(place, token, _OTHERS_S if tried else _FIRST_S))
        if not tried[0].trouble:
            break
    return tried


def _knock(place: Place, token: str, timeout_s: float) -> Knock:
    try:
        before = time.time()
        with socket.create_connection((place.address, place.port), timeout_s) as guest, guest.makefile("rb") as stream:
            words = stream.read(_LONGEST)
        after = time.time()
        said, moment = json.loads(words)
    except (OSError, ValueError, TypeError) as error:
        return Knock(place, str(error) or type(error).__name__)
    if said != token:
        return Knock(place, "somebody else answers there")
    return Knock(place, "", moment - (before + after) / 2, (after - before) / 2)
