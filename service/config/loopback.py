"""Whether a host is this machine's alone, by its name or its address."""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Of an address, with a zone or in brackets too, or of the name that always leads here; no other is looked up."""
    try:
        return ip_address(host.strip("[]").split("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"
