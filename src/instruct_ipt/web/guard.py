"""Who may talk to the server: requests that other sites' pages send through a visitor's browser are turned away."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SAFE = ("GET", "HEAD", "OPTIONS")
_ALWAYS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """ASGI middleware: looks at Host and Origin, and tells browsers what the page may do.

    A site whose name is made to point here after it was opened (DNS rebinding) sends its name as Host, and a site that
    posts to us its address as Origin. Addresses in numbers cannot be made to point elsewhere.

    Args:
        app: what is guarded.
        names: host names by which the server may be called, beside `localhost` and any address in numbers.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        self._app, self._names = app, {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store" if scope["path"].startswith("/api") else "no-cache")
            await send(message)

        problem = self._problem(scope["method"], Headers(scope=scope))
        close = {"Connection": "close"}
        answer = JSONResponse({"error": problem[1]}, problem[0], close) if problem else self._app
        await answer(scope, receive, marked)

    def _problem(self, method: str, headers: Headers) -> tuple[int, str] | None:
        hosts = headers.getlist("host")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        if not self._known(host):
            return 400, f"the server is not called {host[:100]!r}; --allow-host adds a name"
        if method in _SAFE:
            return None
        origins = headers.getlist("origin")
        same = all(urlsplit(origin).netloc.lower() == host for origin in origins)
        if not same or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "the request comes from another site's page; open the server's own page"
        return None

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if set(host) & set("@/?#"):
            return False  # no host and port, but something that a parser may take for one
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
