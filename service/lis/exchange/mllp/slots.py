"""How many connections each sender of orders may hold, so that one cannot hold all of them."""

from collections import Counter
from ipaddress import IPv6Address, ip_address, ip_network


class ConnectionSlots:
    """Counts the open connections of each holder: an address, a network, or the subject of a certificate."""

    def __init__(self, per_holder: int) -> None:
        self._per_holder = per_holder
        self._taken: Counter[str] = Counter()

    def take(self, holder: str) -> bool:
        """Take a slot; False when this holder has as many as it may have."""
        if self._taken[holder] >= self._per_holder:
            return False
        self._taken[holder] += 1
        return True

    def release(self, holder: str) -> None:
        """Give a slot back."""
        self._taken[holder] -= 1
        if not self._taken[holder]:
            del self._taken[holder]


def holder_of(address: str) -> str:
    """Whose slots a connection from this address takes: of IPv6 a whole /64 is one site's (RFC 4291, 2.5.4)."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or ip_network((found, 64), strict=False))
    return str(found)
