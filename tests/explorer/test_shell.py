"""The shell of the page: who may ask, what every answer says, errors that teach, search, and rows that are hostile."""

import http.client
import json
import re
import shlex
import shutil
import signal
from urllib.parse import quote, urlsplit

import pytest
from browser import HOSTILE, served, watched
from running import ROOT, gradsift_apart, start

from gradsift.api.exploring import PORT
from gradsift.datastore import examples
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.store import Store
from gradsift.explorer import security
from gradsift.explorer.security import HEADERS, POLICY, Rules
from gradsift.explorer.serve import listen, rules_for, url_of
from gradsift.explorer.shared import visible
from gradsift.pipelines.query.by_hand import select_by_hand

SLOW = " and ".join(f"replace(text, 'e', 'eeeee') not like '%{'e' * 20}{k}%'" for k in range(20))


def ask(address, path, method="GET", body=None, **headers):
    """(status, headers, text) of a request with these headers alone; `host=None` sends none."""
    where = urlsplit(address)
    link = http.client.HTTPConnection(where.hostname, where.port)
    given = {"host": where.netloc} | {name.replace("_", "-"): value for name, value in headers.items()}
    link.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                link.putheader(name, one)
    link.endheaders(body)
    answer = link.getresponse()
    text = answer.read().decode()
    link.close()
    return answer.status, dict(answer.getheaders()), text


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 307), ("/search", 200), ("/search?q=a", 200), ("/search?q=a&start=x", 400), ("/nothing", 404),
     ("/static/explorer.css", 200), ("/static/../app.py", 404), ("/static/%2e%2e/app.py", 404)],
)  # fmt: skip
def test_every_answer_has_the_policy(address, path, status):
    got, headers, _ = ask(address, path)
    assert got == status
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in POLICY
    assert "http:" not in POLICY


def test_so_has_one_that_nobody_expected(copy, monkeypatch, caplog):
    monkeypatch.setattr(examples, "scan", lambda *_: 1 / 0)
    with served(copy) as address:
        status, headers, text = ask(address, "/search?q=a")
    assert (status, headers["content-security-policy"]) == (500, POLICY)
    assert "ZeroDivisionError" not in text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("localhost:1", 200), ("127.0.0.1:9", 200), ("[::1]:9", 200), ("127.0.0.2", 200),
     ("evil.example", 421), ("evil.example:80", 421), ("127.0.0.1.evil.example", 421), ("10.0.0.1", 421),
     ("localhost@evil.example", 421), ("evil.example@localhost", 421), ("", 421), (["localhost", "evil.example"], 421)],
)  # fmt: skip
def test_only_names_of_this_host_are_answered(address, host, status):
    """Else a site could have its own name resolved to the loopback, and read every row."""
    got, _, text = ask(address, "/search", host=host)
    assert got == status
    assert status == 200 or "answers to 127.0.0.1, localhost" in text


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 405), ({"origin": "OWN", "sec_fetch_site": "same-origin"}, 405), ({"origin": "http://evil.example"}, 403),
     ({"origin": "null"}, 403), ({"sec_fetch_site": "cross-site"}, 403), ({"sec_fetch_site": "same-site"}, 403),
     ({"origin": "http://127.0.0.1:1"}, 403), ({"content_length": None}, 411),
     ({"content_length": str(1 << 40)}, 413)],
)  # fmt: skip
def test_what_changes_something_is_asked_by_the_page_alone(address, headers, status):
    """405: it is let through, to a path that takes no such request."""
    given = {name: address if value == "OWN" else value for name, value in ({"content_length": "0"} | headers).items()}
    assert ask(address, "/search", "POST", **given)[0] == status


@pytest.mark.parametrize(
    ("site", "mode", "dest", "status"),
    [("same-origin", "cors", "empty", 200), ("none", "navigate", "document", 200), ("cross-site", "navigate", "document", 200),
     ("cross-site", "no-cors", "image", 403), ("same-site", "no-cors", "script", 403), ("cross-site", "cors", "empty", 403),
     ("cross-site", "navigate", "iframe", 403)],
)  # fmt: skip
def test_another_site_may_lead_here_and_ask_for_nothing_else(address, site, mode, dest, status):
    """It could read no answer, and yet learn from how long a search takes."""
    headers = {"sec_fetch_site": site, "sec_fetch_mode": mode, "sec_fetch_dest": dest}
    assert ask(address, "/search?q=secret", **headers)[0] == status


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 307), ("/map", 200), ("/runs", 200), ("/selections", 200), ("/row/f", 400), ("/marks", 200),
     ("/map/points", 403), ("/map/passing?where=1", 403), ("/map/rows?ids=", 403), ("/openapi.json", 403),
     ("/static/explorer.css", 403), ("/nothing", 403)],
)  # fmt: skip
def test_another_site_leads_to_views_alone(address, path, status):
    """Not to what computes for a script, as often as it opens a window."""
    led = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert ask(address, path, **led)[0] == status


def test_a_predicate_over_http_has_some_seconds_and_no_more(address, monkeypatch):
    monkeypatch.setattr(security, "SECONDS", 1e-4)
    for method, path, body in (
        ("GET", f"/map/passing?where={quote(SLOW)}", None),
        ("POST", "/query", json.dumps({"text": "a", "space": "bm25", "filters": {"where": SLOW}}).encode()),
    ):
        given = {} if body is None else {"content_length": str(len(body)), "content_type": "application/json"}
        status, _, text = ask(address, path, method, body, **given)
        assert (status, "takes longer than the 0.0001 seconds that it has here" in text) == (400, True)


def test_a_token_becomes_a_cookie_that_is_of_no_use_to_others(copy):
    rules = Rules(token="s3cret")
    with served(copy, rules) as address:
        for path in ("/search", "/static/explorer.css", "/search?token=", "/search?token=other", "/nothing",
                     "/search?token=s3cret&token=other"):  # fmt: skip
            assert ask(address, path)[0] == 401, path
        status, headers, text = ask(address, "/search?q=a%26b&token=s3cret")
        assert (status, headers["location"], text) == (303, "/search?q=a%26b", "")
        assert re.fullmatch(r"gradsift-\w+=s3cret; HttpOnly; Path=/; SameSite=strict", headers["set-cookie"])
        cookie = headers["set-cookie"].partition(";")[0]
        assert ask(address, "/search", cookie=f"a=b; {cookie}")[0] == 200
        assert ask(address, "/search", cookie=cookie.replace("s3cret", "other"))[0] == 401
        assert ask(address, "//evil.example/x?token=s3cret")[1]["location"] == "/evil.example/x"
    assert "s3cret" not in repr(rules)


def test_the_page_opens_by_its_whole_url_and_then_without(chromium, copy):
    with served(copy, Rules(token="s3cret")) as address, watched(chromium, address) as page:
        page.goto(f"{address}/search")
        assert "needs the token" in page.text_content("body")
        assert all("401" in told for told in page.wrong)
        page.wrong.clear()
        page.goto(f"{address}/search?token=s3cret")
        assert page.url == f"{address}/search"
        assert page.evaluate("document.cookie") == ""
        page.reload()
        assert page.text_content("h1") == "Search"


def test_on_another_address_than_the_loopback_there_is_a_token():
    with listen("0.0.0.0", 0) as at:
        rules = rules_for("0.0.0.0", at, token=False)
        assert len(rules.token) >= 32
        assert url_of("0.0.0.0", at, rules).endswith(f":{at.getsockname()[1]}/?token={rules.token}")
    with listen("localhost", 0) as at:
        assert rules_for("localhost", at, token=False) == Rules()
        assert rules_for("localhost", at, token=True).token
        with pytest.raises(InputError, match="--port 0 takes a free port"):
            listen("localhost", at.getsockname()[1])
    with pytest.raises(InputError, match="cannot listen on"):
        listen("no.such.host.invalid", 0)


def test_the_command_prints_the_url_and_stops_quietly(finished):
    process = start("-m", "gradsift", "explore", "--store", finished[1], "--port", "0", "--no-browser", bufsize=1)
    url = process.stdout.readline().strip()
    status, _, text = ask(url, "/search", accept="text/html")
    assert (status, "<h1>Search</h1>" in text) == (200, True)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert said.splitlines()[-1] == "Stopped."


STUCK = """
import sys, threading, time
from gradsift.pipelines.query import find
find.find = lambda *_, **__: (print("asked", flush=True), time.sleep(600))
from gradsift.explorer import search
search.find = find.find
from gradsift.__main__ import main
sys.argv[0] = "gradsift"
main()
"""


def test_the_command_stops_whatever_an_answer_takes(finished):
    process = start("-c", STUCK, "explore", "--store", finished[1], "--port", "0", "--no-browser", bufsize=1)
    where = urlsplit(process.stdout.readline().strip())
    link = http.client.HTTPConnection(where.hostname, where.port)
    link.request("GET", "/search?q=a")
    while process.stdout.readline() != "asked\n":
        pass
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    link.close()
    assert (process.returncode, said.splitlines()[-1], errors) == (0, "Stopped.", "")


@pytest.mark.slow
def test_the_page_on_exploring_works_as_written(finished, tmp_path):
    """Its commands on a store that holds a run, in which a selection was saved as the page says."""
    shutil.copytree(finished[1], tmp_path / "store")
    with Store(tmp_path / "store") as store:
        select_by_hand(store, "by-eye", [row["example_id"] for row in found(store)], {})
    page = (ROOT / "docs" / "explore.md").read_text("utf-8")
    lines = [
        shlex.split(line)
        for block in re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S)
        for line in block.splitlines()
    ]
    tunnel = next(line for line in lines if line[0] == "ssh")
    assert tunnel[:4] == ["ssh", "-L", f"{PORT}:127.0.0.1:{PORT}", "gpu-host"]
    commands = [line[4:] if line is tunnel else line for line in lines]
    assert {program for program, *_ in commands} == {"gradsift"}
    for _, *arguments in commands:
        if arguments[0] != "explore":
            gradsift_apart(*arguments, cwd=tmp_path)
            continue
        process = start(
            "-m", "gradsift", *arguments, "--port", "0", cwd=tmp_path, variables={"DISPLAY": "", "WAYLAND_DISPLAY": ""}
        )
        url = urlsplit(process.stdout.readline().strip())
        status, headers, _ = ask(f"http://127.0.0.1:{url.port}", f"/search?{url.query}")
        assert status == (303 if "0.0.0.0" in arguments else 200)
        process.send_signal(signal.SIGINT)
        process.communicate()


def found(store):
    """Six rows."""
    table = next(iter(examples.scan(store)))[2]
    return table.slice(0, 6).to_pylist()


def test_an_error_is_a_page_for_people_and_json_for_programs(address):
    assert "no place that a search named" in ask(address, "/search?q=a&start=x", accept="text/html")[2]
    status, _, text = ask(address, "/search?q=a&start=x", accept="application/json")
    assert (status, json.loads(text)) == (400, {"error": "'x' is no place that a search named"})
    assert ask(address, f"/search?q={'a' * 300}")[0] == 422


def test_signs_that_show_nothing_are_shown():
    assert visible("a\x1b[31mb\u202ec\u200bd\te\n\U000e0041") == "a␛[31mb‹U+202E›c‹U+200B›d\te\n‹U+E0041›"
    assert visible("é 汉 👩‍👩‍👧 عربي") == "é 汉 👩‍👩‍👧 عربي"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """An open store of rows that mean harm, in sources whose names do."""
    with Store(tmp_path_factory.mktemp("hostile") / "store") as store:
        rows = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": text}] for text in HOSTILE.values()]
        examples.add(store, [Example(example_id(chat), chat, "<b>source</b>\u202e") for chat in rows])
        yield store


def test_hostile_rows_do_nothing_in_search(chromium, hostile):
    with served(hostile) as address, watched(chromium, address) as page:
        page.goto(f"{address}/search?q=wordone")
        assert page.title() == "Search · gradsift"
        assert page.locator("ol.rows > li").count() == len(HOSTILE)
        assert page.locator("ol.rows script, ol.rows img, ol.rows b").count() == 0
        text = page.locator("ol.rows").inner_text()
        for shown in (
            "<script>document.title",
            "‹U+202E› evil ‹U+2066›",
            "␛[31m red ␇",
            "{{ 7 * 7 }}",
            "<b>source</b>",
        ):
            assert shown in text
        assert len(text) < 3_000
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_search_finds_all_words_wherever_they_stand(page, address, explored):
    chat = next(iter(examples.scan(explored[1])))[2]["messages"][3].as_py()
    words = sorted(chat[-1]["content"].split(), key=len)[-2:]
    page.goto(f"{address}/search")
    page.get_by_label("Words").fill(" ".join(words).upper())
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=*")
    assert page.locator("ol.rows > li").count() >= 1
    assert page.locator("mark").first.inner_text().lower() == words[0].lower()
    page.reload()
    assert page.get_by_label("Words").input_value() == " ".join(words).upper()


def test_search_goes_on_page_after_page_to_every_row_once(page, address):
    seen, url = [], f"{address}/search?q=e"
    while url:
        page.goto(url)
        seen += page.locator("ol.rows a.id").evaluate_all("all => all.map(one => one.getAttribute('href'))")
        more = page.get_by_role("link", name="Go on")
        url = f"{address}{more.get_attribute('href')}" if more.count() else None
    assert len(seen) == len(set(seen)) > 100
