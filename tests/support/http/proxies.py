"""nginx and HAProxy in front of the service, as hospitals have them: connections to it are kept and shared by clients.

nginx passes `Upgrade` on, as its page on WebSockets says to. Both are Debian's; a machine without one skips its tests.
"""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NGINX = """
daemon off; worker_processes 1; user root; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 2000; }}
http {{
  access_log off; client_max_body_size 300m; proxy_request_buffering off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream service {{ server {service}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Host localhost;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
      proxy_set_header X-Acting-User "";
    }}
  }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend clients
  bind 127.0.0.1:{port}
  http-request del-header X-Acting-User
  http-request set-header Host localhost
  default_backend service
backend service
  http-reuse always
  server one {service}
"""
PROXIES = ("nginx", "haproxy")


@contextmanager
def proxy(name: str, service: str, folder: Path) -> Iterator[str]:
    """The URL of that proxy in front of the service at `host:port`."""
    program = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip(f"{name} is not here: apt-get install {name}")
    port = free_port()
    file = folder / f"{name}.cfg"
    file.write_text({"nginx": NGINX, "haproxy": HAPROXY}[name].format(folder=folder, port=port, service=service))
    command = [program, "-p", str(folder), "-c", str(file)] if name == "nginx" else [program, "-db", "-f", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            wait_connected(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=30)


def free_port() -> int:
    """A port that is free now: neither program says which one it was given."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
    return port


def wait_connected(process: "subprocess.Popen[str]", port: int) -> None:
    """Return once the program takes connections."""
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except ConnectionRefusedError:
            continue
    said = process.stdout.read() if process.stdout else ""
    raise AssertionError(f"the proxy ended: {said}")
