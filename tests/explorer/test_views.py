"""The views of rows, selections, sources, marks and runs: what they show, what they refuse, and that nothing acts."""

import json
import re
import sqlite3
from contextlib import closing
from html.parser import HTMLParser
from urllib.parse import quote, urlencode

import hostile
import pytest
from fastapi.testclient import TestClient
from planted import by_ids
from running import python

from gradsift.datastore import choices, origins, runs, selections
from gradsift.datastore.store import Store
from gradsift.explorer.app import make_app
from gradsift.explorer.chat import CUT, MOST, TURNS, show
from gradsift.explorer.paging import pages
from gradsift.explorer.rows import shade
from gradsift.explorer.runs import REPORT_POLICY
from gradsift.explorer.security import POLICY
from gradsift.explorer.shared import HIDDEN, commands, percent, score, signal, similarity
from gradsift.pipelines.query.beside import DEPTH, NO_OPPOSITE, beside
from gradsift.pipelines.query.spaces import Near
from gradsift.pipelines.query.tokens import Token
from gradsift.pipelines.query.twins import twins
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.forget import delete

TAGS = {
    "html", "head", "meta", "title", "link", "body", "a", "header", "nav", "main", "h1", "h2", "h3", "p", "span", "bdi", "b", "i",
    "code", "section", "article", "details", "summary", "div", "dl", "dt", "dd", "ol", "ul", "li", "table", "thead", "tbody", "tfoot",
    "tr", "th", "td", "form", "label", "select", "option", "input", "button", "abbr", "mark", "svg", "rect", "br",
}  # fmt: skip


class Harmless(HTMLParser):
    """Fails for a tag or an attribute that could act, or load something from elsewhere; keeps the text."""

    def __init__(self, html):
        super().__init__()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        assert tag in TAGS, tag
        for name, value in attributes:
            assert not name.startswith("on"), (tag, name)
            assert name not in ("style", "srcdoc", "src", "formaction"), (tag, name)
            if name in ("href", "action"):
                assert value.startswith(("/", "?", "#")), (tag, value)
                assert not value.startswith("//"), (tag, value)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def store(browsed):
    with Store(browsed, create=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(store):
    with TestClient(make_app(store), base_url="http://127.0.0.1", headers={"accept": "text/html"}) as opened:
        yield opened


@pytest.fixture(scope="module")
def chosen(store):
    """The id of a row that a selection holds."""
    return selections.get(store, "small-sql").example_ids[0]


def shown(client, path, status=200):
    """The text of a page, which is harmless."""
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-security-policy"] == POLICY
    assert not set(answer.text) & {chr(code) for code in HIDDEN}
    return Harmless(answer.text).text


def test_every_view_is_a_page_that_links_to_the_others(client, chosen):
    waiting = ["/selections", f"/row/{chosen}", "/compare?a=small-random-sql%401&b=small-qtuning-sql%401"]
    kinds = {}
    while waiting:
        path = waiting.pop()
        kind = re.sub(r"[0-9a-f]{32}|%40\d+|\d+", "*", path.partition("?")[0])
        seen = kinds.setdefault(kind, set())
        if path in seen or len(seen) == 3 or path.endswith("/report"):
            continue
        seen.add(path)
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text)
        Harmless(answer.text)
        links = re.findall(r'href="([^"]+)"', answer.text)
        views = [
            link.replace("&amp;", "&")
            for link in links
            if link != "/" and not link.startswith(("#", "/static", "/search", "/map"))
        ]
        waiting += [link if link[0] == "/" else path.partition("?")[0] + link for link in views]
    assert {kind.split("/")[1] for kind in kinds} >= {"row", "selections", "compare", "sources", "marks", "runs"}


def test_a_row_shows_its_chat_places_signals_and_choices(client, chosen, store):
    text = shown(client, f"/row/{chosen}")
    assert shown(client, f"/row/{chosen[:12]}") == text.replace(f"/row/{chosen}", f"/row/{chosen[:12]}")
    for words in ("Write SQL", "small.jsonl", "CC0-1.0", "el2n", "label tokens", "small-sql@1"):
        assert words in text


@pytest.mark.parametrize("name", hostile.CASES)
@pytest.mark.parametrize("view", ["", "/tokens", "/neighbours"])
def test_hostile_rows_are_harmless_and_legible(client, name, view):
    text = shown(client, f"/row/{hostile.IDS[name]}{view}")
    says = {
        "script": "<script>document.title='owned'</script>", "far": "<img src=https://example.org/pixel.png>",
        "bidi": "pay ‹U+202E›001‹U+202C› dollars", "terminal": "␛[31mred␛[0m ␇bell", "template": "{{ 7 * 7 }}",
        "long": "word word", "unbroken": "W" * 80, "zalgo": "Z\u0341", "javascript": hostile.JAVASCRIPT,
    }  # fmt: skip
    if view != "/tokens":
        assert says[name] in text
    assert len(text) < 150_000


def test_a_megabyte_is_cut_until_all_is_asked_for(client):
    name = hostile.IDS["long"]
    page = client.get(f"/row/{name}").text
    assert len(page) < 40_000
    assert "the very end" not in page
    assert f"{len(hostile.LONG) + 3 - CUT:,} characters more" in Harmless(page).text
    assert '<a href="?all=1">Show all</a>' in page
    assert "the very end" in shown(client, f"/row/{name}?all=1")


def test_a_chat_is_cut_by_characters_and_turns():
    chat = [{"role": "user", "content": "x" * 9}] * (TURNS + 5)
    found = show(chat)
    assert (len(found.turns), found.turns_left, found.chars_left) == (TURNS, 5, 0)
    assert show(chat, whole=True).turns_left == 0
    (said,) = show([{"role": "user", "content": "x" * (MOST + 7)}], whole=True).turns[0].parts
    assert len(said.text) == MOST
    two = show([{"role": "user", "content": "x" * CUT}, {"role": "assistant", "content": "yy"}])
    assert (two.chars_left, two.turns[1].parts[0].text) == (2, "")


def test_tokens_are_shaded_and_struck_out(client, store):
    chosen = selections.get(store, "small-qtuning-sql")
    name, mask = next((i, mask) for i, mask in selections.masks(store, chosen).items() if not all(mask))
    page = client.get(f"/row/{name}/tokens").text
    assert page.count("pruned") == mask.count(False)
    assert f"of which {mask.count(False)} are struck out" in Harmless(page).text
    assert "pruned" not in client.get(f"/row/{name}/tokens?mask=").text
    by = [re.findall(r"nll-\d", client.get(f"/row/{name}/tokens?by={by}").text)[10:] for by in ("nll", "entropy")]
    assert by[0] != by[1]
    assert len(by[0]) == len(by[1]) == len(mask)
    assert [shade(Token("", True, nll, None), "nll") for nll in (None, 0.0, 0.02, 1.0, 99.0)] == [None, 0, 1, 5, 9]


def test_neighbours_stand_beside_each_other_with_their_ranks_elsewhere(client, store, chosen):
    found = beside(store, chosen, 5)
    columns = {column.space: column for column in found.columns}
    assert not columns["gradients"].lacking
    assert not columns["bm25"].lacking
    assert "select.encoder" in columns["encoder"].lacking
    for column in columns.values():
        assert chosen not in [one.example_id for one in column.near]
        for one in column.near:
            assert set(one.ranks) == {"gradients", "embedding", "bm25"} - {column.space}
            for space, rank in one.ranks.items():
                if rank is not None and rank < 5:
                    assert columns[space].near[rank].example_id == one.example_id
    text = shown(client, f"/row/{chosen}/neighbours?k=5")
    for one in columns["gradients"].near:
        assert one.example_id[:8] in text
        assert similarity(one.similarity) in text
    assert "Not searched" in text
    opposed = beside(store, chosen, 5, opposed=True)
    worst = next(column for column in opposed.columns if column.space == "gradients").near
    assert [one.similarity for one in worst] == sorted(one.similarity for one in worst)
    assert worst[0].similarity < columns["gradients"].near[-1].similarity
    words = next(column for column in opposed.columns if column.space == "bm25")
    assert (words.lacking, words.near) == (NO_OPPOSITE, [])
    assert worst[0].example_id[:8] in shown(client, f"/row/{chosen}/neighbours?k=5&opposed=1&checkpoint=all")


def test_which_neighbours_are_in_all_and_which_here_alone(store, chosen, monkeypatch):
    """By two spaces that agree on one row and differ in one; the third cannot be searched."""
    a, b, c = selections.get(store, "small-sql").example_ids[1:4]
    order = {"gradients": [a, b], "embedding": [c, a]}
    depth = max(10, min(DEPTH, runs.last_run(store, computed=True).result.ingest.pool.left // 20))

    class Fake:
        rows = "fake"

        def __init__(self, kind):
            self.kind = kind

        def of_ids(self, ids):
            return ids

        def near(self, question, k, *, opposed):
            assert k == depth + 1
            near = [Near(name, 1 / (n + 1)) for n, name in enumerate([*question, *order[self.kind]])]
            return type("Found", (), {"near": [near]})

        def typical(self, question, without):
            assert without == [(chosen,)]
            return [None]

    def open_space(store, kind, checkpoint, *, by_model):
        assert not by_model
        if kind not in order:
            from gradsift.datastore.errors import InputError

            raise InputError("it is not there")
        return Fake(kind)

    monkeypatch.setattr("gradsift.pipelines.query.beside.open_space", open_space)
    found = {column.space: column for column in beside(store, chosen).columns}
    assert [(one.rank, one.ranks, one.everywhere, one.alone) for one in found["gradients"].near] == [
        (0, {"embedding": 1}, True, False),
        (1, {"embedding": None}, False, True),
    ]
    assert [one.alone for one in found["embedding"].near] == [True, False]
    assert (found["bm25"].lacking, found["bm25"].near) == ("it is not there", [])


def test_a_row_that_shares_no_word_has_no_neighbours_by_words(client, store):
    column = next(column for column in beside(store, hostile.IDS["unbroken"]).columns if column.space == "bm25")
    assert (column.near, column.lacking) == ([], "")
    assert "No row shares a word with it." in shown(client, f"/row/{hostile.IDS['unbroken']}/neighbours")


def test_selections_are_listed_paged_and_compared(client, store):
    text = shown(client, "/selections")
    for one in choices.choices(store):
        assert one.reference in text
    assert "pool@1" in text
    whole = selections.get(store, "small-qtuning-sql")
    text = shown(client, "/selections/small-qtuning-sql?first=30")
    for rank, name in enumerate(whole.example_ids):
        assert (name[:8] in text) == (rank >= 30)
    text = shown(client, "/compare?a=small-random-sql%401&b=small-qtuning-sql")
    a, b = (set(selections.get(store, name).example_ids) for name in ("small-random-sql", "small-qtuning-sql"))
    assert f"{len(a & b)} in both" in text
    assert "Moved most" in text
    assert "same rows in the same order" in shown(client, "/compare?a=small-sql&b=small-sql")
    assert "Choose two" in shown(client, "/compare")
    assert "rows" in shown(client, "/compare?a=pool%401&b=small-sql")


def test_sources_and_what_stayed_out(client, store):
    text = shown(client, "/sources")
    pool = runs.last_run(store, computed=True).result.ingest.pool
    for source, rows in pool.by_source.items():
        assert source in text
        assert f"{rows / pool.examples:.1%}" in text
    assert "no labels" in text or "broken json" in text
    assert "small.jsonl" in shown(client, "/sources/stayed-out")
    assert "No rows here" in shown(client, "/sources/stayed-out?reason=boredom")


def test_lineage_goes_back_to_the_line_and_on_to_what_was_made_of_it(client, chosen, store):
    text = shown(client, f"/lineage/{chosen}")
    (origin,) = origins.origins_of(store, [chosen])[chosen]
    for words in (
        f"{origin.file}:{origin.line}",
        "pool@1",
        "adam_exact",
        "small-sql@1 rank 0",
        "train-00000-of-00001.parquet",
        "selected",
    ):
        assert words in text.replace("pool:small@1", "pool@1")
    text = shown(client, f"/lineage?file={origin.file}")
    assert "rows became" in text
    assert "small-sql@1 12 examples" in " ".join(text.split())
    assert chosen[:8] in text + shown(client, f"/lineage?file={origin.file}&first=100")
    assert shown(client, f"/lineage?file={origin.file.rpartition('/')[2]}") == text


def test_a_deleted_row_is_named_and_nothing_else_is_said(copy, client):
    name = selections.get(copy, "small-sql").example_ids[0]
    delete(copy, by_ids(name))
    with TestClient(make_app(copy), base_url="http://127.0.0.1", headers={"accept": "text/html"}) as other:
        text = shown(other, f"/lineage/{name}")
        assert "This row was deleted" in text
        assert "Write SQL" not in text
        for view in ("", "/tokens", "/neighbours"):
            assert "no example has an id" in shown(other, f"/row/{name}{view}", 400)
        assert name[:8] not in shown(other, "/selections/small-sql")
        assert "void" in shown(other, "/selections")


def test_marks_show_twins(client, store):
    pair = twins(store, count=1).pairs[0]
    text = shown(client, "/marks")
    assert pair.left_out.example_id[:8] in text
    assert pair.twin.example_id[:8] in text
    assert any(piece.differs and piece.text.strip() in text for piece in pair.left_out.pieces)
    assert "No pairs here" in shown(client, "/marks?first=5000")


def test_a_report_has_a_policy_of_its_own_and_is_of_the_stores_folder(client, store):
    text = client.get("/runs").text
    assert 'href="/runs/1/report"' in text
    assert "gradsift report --run 2" in Harmless(text).text
    answer = client.get("/runs/1/report")
    assert answer.headers["content-security-policy"] == REPORT_POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.text == (store.root / "reports" / "small.html").read_text("utf-8")
    assert "`" not in shown(client, "/runs/2/report", 400)


@pytest.mark.parametrize("name", ["script", "bidi", "unbroken"])
def test_names_of_a_strangers_store_are_harmless(copy, name):
    """Of selections, targets, methods, versions, runs and reasons: a catalog may say anything."""
    text = hostile.CASES[name][:150]
    with closing(sqlite3.connect(copy.root / "catalog.sqlite")) as db, db:  # which checks no references
        db.execute("UPDATE selection SET name=?, target=?, method=?", (text, text, text))
        db.execute("UPDATE version SET name=? WHERE kind='selection'", (text,))
        db.execute("UPDATE run_version SET name=? WHERE kind='selection'", (text,))
        db.execute("UPDATE run SET name=?", (text,))
        db.execute("UPDATE mark SET reason=?", (text,))
        db.execute("UPDATE quarantine SET reason=?, detail=?, excerpt=?, source=?", (text, text, text, text))
    with TestClient(make_app(copy), base_url="http://127.0.0.1", headers={"accept": "text/html"}) as client:
        (one,) = choices.choices(copy)
        held = choices.items(copy, one.selection_id, 0, 1)[0].example_id
        for path in (
            "/selections", f"/selections/{quote(one.reference)}", f"/compare?{urlencode({'a': one.reference, 'b': one.reference})}",
            "/sources", "/sources/stayed-out", "/marks", f"/marks?{urlencode({'reason': text})}", "/runs", f"/row/{held}", f"/lineage/{held}",
        ):  # fmt: skip
            answer = client.get(path)
            assert answer.status_code == 200, (path, answer.text)
            Harmless(answer.text)
        shown(client, "/runs/1/report", 400)


def test_a_damaged_file_is_named(copy):
    name = selections.get(copy, "small-sql").example_ids[0]
    for shard in (copy.root / "features").iterdir():
        shard.write_bytes(shard.read_bytes()[:-9])
    with TestClient(make_app(copy), base_url="http://127.0.0.1", headers={"accept": "text/html"}) as client:
        assert re.search(r"shard \d+ \(features\)", shown(client, f"/row/{name}", 500))
        text = shown(client, f"/row/{name}/neighbours")  # words can be searched all the same
        assert re.search(r"Gradients\s*Shard \d+ \(features\)", text)
        assert text.index("Words (BM25)") < text.index("Not searched")


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [("/row/zzz", 400, "no example has an id starting with 'zzz'; Search finds rows"), ("/row/zzz/tokens", 400, "no example"), ("/row/zzz/neighbours", 400, "no example"),
     ("/row/ID/tokens?checkpoint=9", 400, "no row of"), ("/row/ID/tokens?mask=small-sql", 400, "prunes no token"),
     ("/row/ID/tokens?by=moon", 422, "by"), ("/row/ID/neighbours?k=0", 422, "k"), ("/row/ID/neighbours?checkpoint=x", 422, "checkpoint"),
     ("/selections/nothing", 400, "there are: small-sql"), ("/selections/small-sql@9", 400, "has versions 1 to 1"),
     ("/selections/small-sql?first=-1", 422, "first"), ("/selections/../../etc/passwd", 404, "no page here"),
     ("/selections/%2e%2e%2fetc%2fpasswd", 400, "no selection"), ("/compare?a=/etc&b=small-sql", 400, "no selection"),
     ("/compare?a=small-sql&b=pool", 400, "no selection"), ("/marks?reason=boredom", 400, "left nothing out"),
     ("/runs/99/report", 400, "no finished run 99"), ("/runs/x/report", 422, "number"),
     ("/runs/99999999999999999999/report", 422, "number"), ("/row/ID/tokens?checkpoint=99999999999999999999", 400, "no row of"),
     ("/marks?first=99999999999999999999", 422, "first"), ("/row", 404, "no page here"),
     ("/selections/<script>", 400, "no selection '<script>'"), ("/lineage/zzz", 400, "no example has an id"),
     ("/lineage/..%2F..%2Fetc%2Fpasswd:1", 404, "no page here"), ("/lineage?file=/etc/passwd", 400, "no row of the store was read from"),
     ("/lineage?file=mall.jsonl", 400, "no row of the store was read from"), ("/lineage", 422, "file")],
)  # fmt: skip
def test_errors_are_pages_that_say_what_there_is(client, chosen, path, status, words):
    assert words in shown(client, path.replace("ID", chosen), status)


def test_a_store_without_a_run_says_how_to_begin(tmp_path):
    with Store(tmp_path / "new") as empty, TestClient(make_app(empty), base_url="http://127.0.0.1") as client:
        for path, words in (
            ("/selections", "Nothing has been chosen"), ("/sources", "gradsift run RECIPE"),
            ("/marks", "left nothing out"), ("/runs", "No run has begun"), ("/compare", "Choose two"),
        ):  # fmt: skip
            assert words in shown(client, path)


def test_a_mixture_and_near_duplicates_of_a_pool_without_a_model(tmp_path, write_jsonl):
    """Names of sources are hostile; copies of a row are counted."""
    rows = [
        {
            "prompt": f"Question {k} about the long road to {k * 7}",
            "completion": f"Answer {k}.",
            "source": hostile.SCRIPT if k % 2 else "plain",
        }
        for k in range(8)
    ]
    rows.append(rows[0] | {"completion": "Answer 0!"})
    recipe = {
        "name": "mix",
        "pool": [{"path": str(write_jsonl(*rows))}],
        "mix": {"examples": 24, "repeat": 3},
        "dedup": {"minhash": {"threshold": 0.5}},
    }
    with Store(tmp_path / "store") as store, TestClient(make_app(store), base_url="http://127.0.0.1") as client:
        curate(parse_recipe(recipe), store)
        text = shown(client, "/selections/mix")
        assert "24 rows of" in text
        assert "copies" in text
        assert "<script>document.title='owned'</script>" in text
        assert "<script>document.title='owned'</script>" in shown(client, "/sources")
        assert "near duplicate" in shown(client, "/marks")
        (version,) = [one.reference for one in choices.choices(store)]
        name = choices.items(store, choices.choices(store)[0].selection_id, 0, 1)[0].example_id
        text = shown(client, f"/row/{name}")
        assert version in text
        assert "makes them" in text
        assert "no finished run computed gradient rows" in shown(client, f"/row/{name}/tokens").lower()
        assert "computed no gradients" in shown(client, f"/row/{name}/neighbours")


def test_no_view_by_itself_loads_torch_or_takes_long(browsed, chosen):
    """Of the server's own time, not of a busy machine's; only the token view loads it, when it is opened."""
    code = f"""
import json, sys, time
from pathlib import Path
from fastapi.testclient import TestClient
from gradsift.datastore.store import Store
from gradsift.explorer.app import make_app
store = Store(Path({str(browsed)!r}), create=False)
client = TestClient(make_app(store), base_url="http://127.0.0.1")
paths = ["/row/{chosen}", "/row/{chosen}/neighbours", "/lineage/{chosen}", "/selections", "/selections/small-sql", "/compare?a=small-sql&b=small-qtuning-sql",
         "/sources", "/sources/stayed-out", "/marks", "/runs", "/runs/1/report"]
took = {{}}
for path in paths:
    assert client.get(path).status_code == 200
    start = time.process_time()
    client.get(path)
    took[path] = time.process_time() - start
print(json.dumps([sorted({{"torch", "transformers", "prefect"}} & set(sys.modules)), took]))
"""
    loaded, took = json.loads(python("-c", code).stdout.splitlines()[-1])
    assert loaded == []
    assert max(took.values()) < 0.3, took


def test_pages_of_a_list_link_to_those_beside_them():
    assert pages(0, 10, 10, 25, reason="a b") == pages(0, 10, 10, 25, reason="a b", other=None)
    middle = pages(10, 10, 10, 25, reason="a&b")
    assert (middle.before, middle.after) == ("reason=a%26b", "reason=a%26b&first=20")
    assert (pages(20, 10, 5, 25).before, pages(20, 10, 5, 25).after) == ("first=10", "")
    assert pages(10, 10, 10, None).before == "first=0"
    assert (pages(0, 10, 10, None).after, pages(0, 10, 9, None).after) == ("first=10", "")


def test_how_figures_and_commands_are_written():
    assert [percent(share) for share in (0, 0.0001, 0.5)] == ["0.0%", "< 0.1%", "50.0%"]
    assert [score(value) for value in (None, 0.0, 0.25, -0.5, 1e-9, 12345.0)] == [
        "–",
        "0.0000",
        "0.2500",
        "-0.5000",
        "1.000e-09",
        "1.234e+04",
    ]
    assert [signal(value) for value in (None, 39.0, 0.588, 107.25, 1234.5, 2e-7, float("nan"))] == [
        "–",
        "39",
        "0.5880",
        "107.2",
        "1234",
        "2.000e-07",
        "nan",
    ]
    assert [similarity(value) for value in (-0.0001, -0.5, 1.0)] == ["0.000", "−0.500", "1.000"]
    assert commands("run `a <b>` and `c") == "run <code>a &lt;b&gt;</code> and `c"
