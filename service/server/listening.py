"""The socket that the service listens on."""

import socket


def bind_socket(host: str, port: int) -> socket.socket:
    """A bound socket that is not listening yet: a port in use is found before the slow start of the model.

    Raises:
        OSError: the port is in use or not permitted, or the host has no local address.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
