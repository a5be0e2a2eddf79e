"""Who may ask the page, and what a browser may do with its answers.

The store's rows are hostile text, and a page on the loopback can be reached by every site that its user visits. So:

- **Policy.** Scripts and styles come from this server's own files, nothing is loaded from or sent to another host, no
  page frames this one. Every answer says so, errors too.
- **Names.** A request names this host by an address or by a name that is its own: a site cannot have its own name
  resolved to the loopback and read the answers (DNS rebinding).
- **Origin.** What changes something is asked by this page, not by another site's form or script; and its size is said
  before it is read. Another site may lead to a view by a link, and ask for nothing else: it would learn from how long
  a search takes.
- **Time.** A predicate that a request brings ends after some seconds (`datastore/bounds.py`); that of a link on another
  site is not asked until the user says so (`led_here`).
- **Token.** On another address than the loopback a secret is needed, in the first URL, which is exchanged for a cookie
  that scripts cannot read and other sites cannot send.
"""

import hashlib
import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from http import cookies
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradsift.datastore.bounds import within

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",  # what is deleted from the store must not live on in a browser's files
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
READS = ("GET", "HEAD")
BODY_BYTES = 64 << 20  # of a request: a selection of a million ids is half of it
SECONDS = 5.0  # that SQLite may take for the predicates of a request
OWN = ("same-origin", "none")  # Sec-Fetch-Site of the page itself, and of the address bar
LOOPBACK_NAMES = frozenset({"localhost"})


@dataclass(frozen=True)
class Rules:
    """Who may ask: by which `names` beside the loopback's, whether by any address, with which token (None: none)."""

    names: frozenset[str] = frozenset()
    any_address: bool = False
    token: str | None = field(default=None, repr=False)

    @property
    def cookie(self) -> str:
        """Name of the cookie: of this token alone, for cookies of a host are shared by all its ports."""
        return f"gradsift-{hashlib.sha256((self.token or '').encode()).hexdigest()[:12]}"


LOOPBACK = Rules()


def guarded(app: ASGIApp, rules: Rules, is_view: Callable[[Scope], bool]) -> ASGIApp:
    """The app behind these rules; headers are on every answer, whoever made it. `is_view`: whether a request is for a
    page to look at, to which others may lead."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        begun = False

        async def told(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)  # a view may have a policy of its own
            await send(message)

        answer = refusal(scope, rules, is_view) or entry(scope, rules)
        try:
            with within(SECONDS):
                await (answer or app)(scope, receive, told)
        except Exception:
            if not begun:
                await PlainTextResponse("something went wrong; the terminal says what", 500)(scope, receive, told)
            raise

    return guard


def refusal(scope: Scope, rules: Rules, is_view: Callable[[Scope], bool]) -> Response | None:
    """The answer to a request that is not for this page, or that another site makes; None for any other."""
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _is_own(_name_of(hosts[0]), rules):
        known = ", ".join(["127.0.0.1", "localhost", *sorted(rules.names)])
        return PlainTextResponse(f"this page answers to {known}, and to no other name; open it by one of these", 421)
    is_own = not led_here(headers)
    followed = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    if scope["method"] in READS:
        passes = is_own or (followed and is_view(scope))
        return None if passes else PlainTextResponse("this is for the page itself; open one of its views", 403)
    origin = headers.get("origin")
    if not is_own or (origin is not None and urlsplit(origin).netloc != hosts[0]):
        return PlainTextResponse("only this page itself may ask that", 403)
    size = headers.get("content-length", "")
    if not size.isdecimal():
        return PlainTextResponse("say the length of what you send (Content-Length)", 411)
    if int(size) > BODY_BYTES:
        return PlainTextResponse(f"send at most {BODY_BYTES:,} bytes", 413)
    return None


def led_here(headers: Headers) -> bool:
    """Whether another site leads to what is asked for, as browsers tell it."""
    return headers.get("sec-fetch-site", "none") not in OWN


def entry(scope: Scope, rules: Rules) -> Response | None:
    """The answer to who lacks the token, or gives it in the URL; None for who has it in the cookie, or needs none."""
    if rules.token is None:
        return None
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    given = [value for name, value in query if name == "token"]
    if given and all(_same(value, rules.token) for value in given):
        return _welcome(scope, rules, [pair for pair in query if pair[0] != "token"])
    jar = cookies.SimpleCookie()
    for line in Headers(scope=scope).getlist("cookie"):
        try:
            jar.load(line)
        except cookies.CookieError:
            continue
    kept = jar.get(rules.cookie)
    if kept is not None and _same(kept.value, rules.token):
        return None
    return HTMLResponse(
        "<!doctype html><html lang=en><meta charset=utf-8><title>gradsift</title><p>This page needs the token that "
        "<code>gradsift explore</code> printed: open the whole URL. If you did before, and came by a link from "
        "elsewhere, <a href=''>go on</a>.",
        401,
    )


def _welcome(scope: Scope, rules: Rules, query: list[tuple[str, str]]) -> Response:
    """To the same view without the token in its URL."""
    path = "/" + scope["path"].lstrip("/\\")  # never another host's
    answer = RedirectResponse(f"{path}?{urlencode(query)}" if query else path, 303)
    answer.set_cookie(rules.cookie, rules.token or "", path="/", httponly=True, samesite="strict")
    return answer


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _name_of(host: str) -> str:
    """The name or address of a Host header, without its port: a tunnel has another. '' for what is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "") if "@" not in host else ""
    except ValueError:
        return ""


def _is_own(name: str, rules: Rules) -> bool:
    if name in LOOPBACK_NAMES | rules.names:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return rules.any_address or address.is_loopback
