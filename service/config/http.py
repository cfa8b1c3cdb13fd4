"""How connections are held and which proxies are believed: the settings of HTTP itself. A part of
`service.config.settings`.

Knows names, types, bounds and units.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field


def _networks(text: str) -> str:
    networks_of(text)
    return text


def networks_of(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks of a list with commas; an address is a network of one.

    Raises:
        ValueError: one of them is neither.
    """
    return tuple(ip_network(each.strip()) for each in text.split(",") if each.strip())


class HttpSettings(BaseModel):
    """The part of the settings that concerns connections and what stands between them and the clients."""

    keep_alive_s: float = Field(
        75,
        gt=0,
        le=3600,
        description="how long an idle connection is kept; longer than the proxy or client in front keeps it",
    )
    max_connections: int = Field(
        1000, gt=0, le=1_000_000, description="most open connections; one more takes the place of an idle one, or 503"
    )
    trusted_proxies: Annotated[str, AfterValidator(_networks)] = Field(
        "",
        description="addresses or networks, with commas between, whose X-Forwarded-For and X-Forwarded-Proto are "
        "believed. Default: nobody's",
    )
    root_path: str = Field(
        "",
        pattern=r"^((/[A-Za-z0-9._~-]+)+)?$",
        description="path that a proxy in front takes off, such as /marrowlens; the interface at /docs needs it",
    )
    hsts_max_age_s: int = Field(
        31_536_000,
        ge=0,
        le=63_072_000,
        description="how long browsers are told to come by TLS alone (Strict-Transport-Security), over TLS; 0: nothing",
    )
