"""Configurations of nginx and Caddy that do what ``fedloru.flower.proxy`` does, for ``fedloru serve --behind-proxy``.

The proxy of this package is the default because it needs no other program, no root, and no second file that names the
same certificates and ports, and it starts and stops with the server. A machine that runs nginx or Caddy anyway, for
other sites on the same port or for certificates that renew themselves, can use one of these instead.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedloru.errors import ConfigError, quoted
from fedloru.flower.routes import FLEET, MAX_BODY, PREFIX


def nginx(host: str, port: int, *, upstream_port: int, certificate: Path, key: Path) -> str:
    """Return a server block for nginx, to be included in its ``http`` block.

    Args:
        host: the name of the server, as clients write it.
        port: the port that clients connect to.
        upstream_port: the port of ``fedloru serve --behind-proxy`` on 127.0.0.1, which speaks plain HTTP.
        certificate: PEM file of the server's certificate.
        key: PEM file of its private key.

    Raises:
        ConfigError: the host or a path has characters with a meaning in the configuration.
    """
    return f"""server {{
    listen {port} ssl;
    server_name {_plain(host)};
    ssl_certificate {_quoted(certificate)};
    ssl_certificate_key {_quoted(key)};
    ssl_protocols TLSv1.2 TLSv1.3;
    client_max_body_size {MAX_BODY};
    client_header_timeout 30s;
    client_body_timeout 30s;

    # Only the calls of clients.
    location ~ ^{PREFIX}({"|".join(FLEET)})$ {{
        limit_except POST {{ deny all; }}
        proxy_pass http://127.0.0.1:{upstream_port}{PREFIX}$1;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_request_buffering off;
        proxy_read_timeout 120s;
    }}

    location / {{ return 404; }}
}}
"""


def caddy(host: str, port: int, *, upstream_port: int, certificate: Path, key: Path) -> str:
    """Return a site block for a Caddyfile; the arguments are those of ``nginx``."""
    paths = " ".join(f"{PREFIX}{name}" for name in FLEET)
    return f"""https://{_plain(host)}:{port} {{
	tls {_quoted(certificate)} {_quoted(key)}

	# Only the calls of clients.
	@fleet {{
		method POST
		path {paths}
	}}
	handle @fleet {{
		request_body {{
			max_size {MAX_BODY}
		}}
		reverse_proxy 127.0.0.1:{upstream_port}
	}}
	handle {{
		respond 404
	}}
}}
"""


REVERSE_PROXIES: dict[str, Callable[..., str]] = {"nginx": nginx, "caddy": caddy}
"""The functions that return a configuration, by the name of the program."""


def _quoted(path: Path) -> str:
    return f'"{_plain(path.absolute().as_posix(), spaces=True)}"'


def _plain(text: str, spaces: bool = False) -> str:
    """Return ``text``, which must have no characters that mean something in a configuration."""
    if not text or any(c in "\"'`\\{}$;#" or not c.isprintable() or (c == " " and not spaces) for c in text):
        raise ConfigError([f"{quoted(text)} has characters that a configuration cannot hold"], "the reverse proxy")
    return text
