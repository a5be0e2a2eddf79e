"""Targets: texts that people write or that come with a store, an export or a link."""

import json
import os
from functools import cache

import yaml
from fuzz import places
from fuzz.drive import ROOT, target

from gradsift.api.shared import section_of
from gradsift.datastore import owner, picks
from gradsift.datastore.place import check_urls, place_of
from gradsift.datastore.predicates import ASKED, Predicate
from gradsift.datastore.quick import Notes
from gradsift.datastore.selects import answer
from gradsift.datastore.statements import FUNCTIONS
from gradsift.datastore.tables import TABLES
from gradsift.pipelines.recipe import load_recipe, recorded_recipe

URLS = (
    "s3://bucket/prefix?region=eu&endpoint_override=http://127.0.0.1:9",
    "file:///srv/store",
    "postgresql://host:5432/base?schema=team",
)
STATEMENTS = (
    "select source, count(*) as n, avg(chars) from examples where licence is not null group by 1 order by n desc limit 3",
    "with a as (select id, extra->>'quality' as q from origins) select * from a where cast(q as double) >= 0.5",
    "select e.id, s.loss from examples as e join signals as s on s.id = e.id where e.text like '%a%' -- why\n",
    "select case when chars > 10 then 'long' else 'short' end, rank() over (partition by source order by chars) from examples",
)
PREDICATES = (
    "licence is null", "text like '%ann@example.org%' and chars between 10 and 1000", "extra->>'difficulty' = 'hard'",
    "lower(source) in ('a', 'b') or not (line % 2)", "round(loss, 2) >= 0.5", "json_extract(extra, '$.a[0]') <> x'00'",
)  # fmt: skip
QUERIES = (
    "source=a&source=b&chars=10..200&loss=0..1&where=chars+%3E+5&words=hello+there", "by=gradients&shade_by=loss",
    "score=sql:0.5..1&cluster=sql:3&selected_in=sql", "q=hello+%22two+words%22&start=1.2", "ids=00,11", "first=100&whole=true",
)  # fmt: skip


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _recipes() -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.yaml"))]


@target(
    "recipe",
    _recipes,
    "pool",
    "path",
    "targets",
    "val",
    "test",
    "model",
    "lora",
    "warmup",
    "features",
    "select",
    "options",
)
def recipe(data: bytes) -> None:
    load_recipe(places.file("recipe.yaml", data))


@target("recipe-json", lambda: [json.dumps(yaml.safe_load(text)).encode() for text in _recipes()])
def recipe_json(data: bytes) -> None:
    """A recipe as a store recorded it."""
    found = _json(data)
    if isinstance(found, dict):
        recorded_recipe(found, "the recipe of a run")


@target("section", lambda: [b"examples: 40\n", b"{parts: [{sources: {a: 1, b: 2}}], tokens: 1000}\n"])
def section(data: bytes) -> None:
    """A part of a recipe in a file of its own, as `mix` takes it."""
    section_of(places.file("mix.yaml", data), "mix")


@target(
    "predicate",
    lambda: [text.encode() for text in PREDICATES],
    *ASKED,
    "like",
    "glob",
    "case when",
    "select",
    "(",
    ")",
    "--",
    "/*",
)
def predicate(data: bytes) -> None:
    with Predicate(_text(data), ASKED, "--where") as asked:
        row = dict.fromkeys(ASKED) | {"id": "0" * 32, "source": "a", "line": 3, "chars": 40, "text": "a long\ntext"}
        asked.of([("k", *row.values()), ("l", *(row | {"extra": '{"quality": 2, "a": [1]}', "loss": 0.5}).values())])
        asked.refuse_absent()


@target(
    "sql",
    lambda: [text.encode() for text in STATEMENTS],
    *sorted(FUNCTIONS),
    *TABLES,
    "select",
    "from",
    "over",
    "->>",
    "::",
)
def sql(data: bytes) -> None:
    for _ in answer(places.old_store(), _text(data)).head(5).parts():
        pass


@target(
    "place",
    lambda: [json.dumps({"catalog_url": URLS[2], "store_url": URLS[0]}).encode(), b'{"store_url": "file:///a"}'],
)
def place(data: bytes) -> None:
    """place.json of a store."""
    place_of(places.file("place/place.json", data).parent)


@target("url", lambda: [url.encode() for url in URLS], "://", "@", "?", "&", "%2f", "[::1]", "access_key=", "s3")
def url(data: bytes) -> None:
    """Where a store is, as it is typed."""
    check_urls(_text(data) if data[:1] == b"p" else None, _text(data))


@target("notes", lambda: [f"{'ab' * 32} {'cd' * 16}\n".encode() * 3])
def notes(data: bytes) -> None:
    """checked.txt of a store."""
    kept = Notes(places.file("checked.txt", data))
    kept.of("ab" * 32)
    kept.keep({"ab" * 32})


@target("ids", lambda: ["\n".join(["ab" * 16, "01", ""]).encode()])
def ids(data: bytes) -> None:
    """A list of ids in a file, for a deletion."""
    picks.by_list(places.old_store(), places.file("ids.txt", data))


@target("owner", lambda: [b"0123456789abcdef", b"x.y"])
def owner_files(data: bytes) -> None:
    """Names of the files that say whose others are."""
    store, name = places.old_store(), data[:200].replace(b"/", b"").replace(b"\0", b"") or b"x"
    at = store.root / "owner" / ("a" + os.fsdecode(name))
    at.parent.mkdir(exist_ok=True)
    at.write_bytes(b"")
    try:
        owner.require(store.catalog, store.backend, "file:///x")
    finally:
        at.unlink()


@cache
def client():
    from fastapi.testclient import TestClient

    from gradsift.explorer.app import make_app

    return TestClient(
        make_app(places.old_store(), models=False), base_url="http://127.0.0.1:8000", follow_redirects=False
    )


PATHS = ("/map/passing", "/map/shade", "/map/rows", "/map/sources", "/map/points", "/search", "/selections", "/compare", "/marks",
         "/sources", "/runs", "/map")  # fmt: skip


@target(
    "query",
    lambda: [f"{k}{query}".encode() for k, query in enumerate(QUERIES)],
    "source",
    "licence",
    "chars",
    "loss",
    "score",
    "where",
    "words",
    "by",
    "q",
    "start",
)
def query(data: bytes) -> None:
    """The query string of a view; its first byte says which."""
    path, asked = PATHS[(data or b"\0")[0] % len(PATHS)], data[1:2000].decode("latin-1")
    clean = "".join(c for c in asked if c.isprintable() and c not in "# ")
    got = client().get(f"{path}?{clean}")
    assert got.status_code < 500, got.text


def _json(data: bytes):
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
