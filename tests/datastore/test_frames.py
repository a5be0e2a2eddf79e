"""Tables of a store: what they hold, what is read for them, and that SQL over them only looks."""

import json
import signal

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from running import PATIENCE, start

from gradsift.datastore import examples, features, forget, picks, runs, selections, signals
from gradsift.datastore import marks as marking
from gradsift.datastore.chats import all_text
from gradsift.datastore.compact import compact
from gradsift.datastore.errors import BusyError, CorruptionError, InputError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.selections import Picks
from gradsift.datastore.selects import answer, query_sql
from gradsift.datastore.statements import FUNCTIONS, Statement, checked
from gradsift.datastore.store import Store
from gradsift.datastore.tables import TABLES, schema_of
from gradsift.datastore.where import matching
from gradsift.pipelines.runs import forget as forgetting


def chat(k):
    turns = [{"role": "user", "content": f"ask {k}"}, {"role": "assistant", "content": "x" * k}]
    if k % 4 == 3:
        turns[1] |= {"reasoning_content": f"think {k}"}
    return turns


IDS = [example_id(chat(k)) for k in range(12)]


@pytest.fixture
def made(either):
    """Twelve examples in three shards, one of them in two places, with a selection, a mixture and a screening."""
    for first in (0, 4, 8):
        batch = [
            Example(IDS[k], chat(k), "ab"[k % 2], "a.jsonl", k + 1, "MIT", "", {"quality": k % 3, "o'k": [k]})
            for k in range(first, first + 4)
        ]
        examples.add(either, batch)
    examples.add(either, [Example(IDS[3], chat(3), "a", "0.jsonl", 99)])
    table = pa.table({"example_id": IDS, "score": [float(k) for k in range(12)], "cluster": [k % 2 for k in range(12)],
                      "depth": [k or None for k in range(12)]})  # fmt: skip
    selections.save(either, "best", "t", {"method": "m"}, Picks(IDS[:8:-1], [11.0, 10.0, 9.0], table))
    selections.save(either, "mixed", "mixture", {"method": "mixture"}, Picks(IDS[:2], [None, None], None, [1, 3]))
    marking.save(either, {"pool": "p"}, [marking.Mark(IDS[1], "exact", IDS[0], 1.0)])
    examples.define_dataset(either, "pool", "p", dict.fromkeys(IDS, "s"))
    return either


def test_every_table_of_an_empty_store_is_empty_and_as_documented(either):
    for name in TABLES:
        found = either.frame(name).collect()
        assert (found.height, found.schema) == (0, schema_of(name)), name
        assert query_sql(either, f"select * from {name}").schema == schema_of(name)
        assert query_sql(either, f"select count(*) from {name}").item() == 0


def test_examples_are_what_the_store_says_of_them(made):
    found = {row["id"]: row for row in made.frame("examples").collect().to_dicts()}
    assert set(found) == set(IDS)
    for k, name in enumerate(IDS):
        row = found[name]
        assert (row["source"], row["licence"], row["chars"]) == ("ab"[k % 2], "MIT", len(f"ask {k}") + k)
        assert (row["file"], row["line"]) == ("a.jsonl", k + 1), "a place of the source that it counts as"
        assert json.loads(row["extra"]) == {"quality": k % 3, "o'k": [k]}
        assert row["text"] == "\n".join(map(all_text, chat(k)))
        assert row["messages"] == [{"role": t["role"], "content": t["content"]} for t in chat(k)]
        assert (row["more"] is None) == (k % 4 != 3)
        assert (row["loss"], row["mark"]) == (None, None)
        assert row["selected"] == (k > 8) + (k < 2)


def test_the_other_tables_are_what_their_modules_say(made):
    places = [(r["id"], r["file"], r["line"]) for r in made.frame("origins").collect().to_dicts()]
    assert sorted(places) == sorted(
        [*((name, "a.jsonl", k + 1) for k, name in enumerate(IDS)), (IDS[3], "0.jsonl", 99)]
    )
    best = made.frame("selections").collect()
    assert best["id"].to_list() == IDS[:8:-1]
    assert best["rank"].to_list() == [0, 1, 2]
    mixed = made.frame("mixtures").collect()
    assert mixed.select("name", "id", "copies").rows() == [("mixed", IDS[0], 1), ("mixed", IDS[1], 3)]
    scores = {row["id"]: row for row in made.frame("scores").collect().to_dicts()}
    assert [scores[name]["score"] for name in IDS] == list(range(12))
    assert [scores[name]["rank"] for name in IDS] == [*[None] * 9, 2, 1, 0]
    assert scores[IDS[5]]["cluster"] == "1"
    assert [json.loads(scores[name]["details"]) for name in IDS[:2]] == [{}, {"depth": 1}]
    assert made.frame("marks").collect().select("id", "twin", "newest").rows() == [(IDS[1], IDS[0], False)]
    assert made.frame("members").collect().select("id", "subtask").rows() == [(name, "s") for name in sorted(IDS)]


def test_a_table_of_more_rows_than_a_page_has_each_once(made, monkeypatch):
    monkeypatch.setattr("gradsift.datastore.readers.PAGE", 2)
    for name, rows in {"origins": 13, "selections": 3, "mixtures": 2, "marks": 1, "members": 12}.items():
        found = made.frame(name).collect()
        assert (found.height, found.unique().height) == (rows, rows), name


def test_a_role_is_what_the_newest_run_has_an_example_for(copy):
    ingest = runs.last_run(copy).result.ingest
    counted = dict(query_sql(copy, "select role, count(*) as n from examples group by 1").rows())
    tests = {name for name, report in ingest.tests.items() if report.examples}
    assert tests
    assert counted["pool"] == ingest.pool.used
    assert counted["left_out"] <= sum(one.examples for one in ingest.pool.left_out)
    pool = examples.get_dataset(copy, ingest.pool.used_dataset_id)
    assert matching(copy, "role = 'pool'") == sorted(pool.example_ids)
    sources = "select source, count(*) as n from examples where role = 'pool' group by 1"
    assert dict(query_sql(copy, sources).rows()) == dict(ingest.pool.used_by_source)
    members = copy.frame("members").collect()
    for role in ("target", "test"):
        of = set(members.filter(pl.col("role") == role)["id"]) - set(pool.example_ids)
        assert set(matching(copy, f"role = '{role}'")) == (
            of if role == "target" else of - set(matching(copy, "role = 'target'"))
        )


def test_roles_where_datasets_share_examples_and_some_are_deleted(made, monkeypatch):
    target = examples.define_dataset(made, "target", "t", dict.fromkeys(IDS[:3], ""))
    test = examples.define_dataset(made, "test", "t", dict.fromkeys(IDS[2:4], ""))
    pool = examples.define_dataset(made, "pool", "p", dict.fromkeys(IDS[:1] + IDS[5:10], ""))
    summary = {"pool": {"digest": pool.digest, "screenings": [1]}, "targets": {"t": {"digest": target.digest}},
               "tests": {"t": {"digest": test.digest}}}  # fmt: skip
    monkeypatch.setattr("gradsift.datastore.where._ingested", lambda store: summary)
    monkeypatch.setattr("gradsift.datastore.where.screened", lambda store: {IDS[5]: "exact"})
    told = ["pool", "target", "target", "test", None, "left_out", *["pool"] * 4, None, None]

    def seen():
        rows = dict(made.frame("examples").select("id", "role").collect().rows())
        assert matching(made, "role = 'pool'") == sorted(name for name, role in rows.items() if role == "pool")
        return [rows.get(name) for name in IDS]

    assert seen() == told
    forget.begin(made, picks.by_ids(made, [IDS[6], IDS[1]]))
    forgetting.finish(made)
    told[6] = told[1] = None
    assert seen() == told


def test_a_count_without_a_name_is_called_count(made):
    assert query_sql(made, "select source, count(*) from examples group by 1").columns == ["source", "count"]
    assert query_sql(made, "select * from (select count(*) from examples)").columns == ["count"]
    assert query_sql(made, "select count(*) as len from examples").columns == ["len"]
    assert query_sql(made, "select count(*), sum(chars) as count from examples").columns == ["len", "count"]


def test_signals_are_those_of_the_rows(copy):
    for space, fingerprint in (
        (r["space_id"], r["fingerprint"]) for r in copy.catalog.rows("SELECT * FROM feature_space")
    ):
        ids = features.ids_with_rows(copy, space)
        found = copy.frame("signals").filter(pl.col("space") == fingerprint[:12]).collect()
        assert sorted(found["id"].to_list()) == ids
        block = features.read_all(copy, space, found["id"].to_list())
        assert np.array_equal(found["projected_norm"].to_numpy(), block.norm)
        for name, stored in (("loss", "loss"), ("tokens", "n_tokens"), ("grad_norm", "grad_norm")):
            if stored in block.signals.column_names:
                assert np.array_equal(found[name].to_numpy(), block.signal(stored))
    newest = signals.newest_space(copy)
    wide = copy.frame("examples").select("id", "loss", "label_tokens").collect().drop_nulls().sort("id")
    block = features.read_all(copy, newest, wide["id"].to_list())
    assert wide["id"].to_list() == features.ids_with_rows(copy, newest)
    assert np.array_equal(wide["loss"].to_numpy(), block.signal("loss"))
    only = copy.frame("signals").filter("newest").select("id", "loss").collect().sort("id")
    assert only.rows() == wide.select("id", "loss").rows()


def test_runs_versions_and_arms_of_a_run(copy):
    last = runs.last_run(copy)
    (run,) = copy.frame("runs").collect().to_dicts()
    assert (run["name"], run["state"], json.loads(run["summary"])) == ("small", "finished", last.summary)
    assert run["finished"] > run["started"]
    made = copy.frame("versions").collect()
    assert set(zip(made["kind"], made["name"], made["version"], strict=True)) >= {("pool", "small", 1)}
    arms = copy.frame("arms").group_by("arm").agg(pl.col("loss").mean()).collect()
    told = {arm.arm: arm.test_loss_mean for arm in last.result.arms}
    assert dict(arms.rows()) == pytest.approx(told, abs=1e-6)


@pytest.fixture
def opened(monkeypatch):
    """Kinds of the shards that are opened, as they are."""
    kinds, reader = [], Store._reader

    def noting(self, shard_id, opener):
        kinds.append(self.catalog.one("SELECT kind FROM shard WHERE shard_id=?", (shard_id,))["kind"])
        return reader(self, shard_id, opener)

    monkeypatch.setattr(Store, "_reader", noting)
    return kinds


@pytest.mark.parametrize(
    ("statement", "kinds"),
    [
        ("select source, count(*) from examples where chars > 2 group by 1", set()),
        ("select extra->>'a', file from examples", set()),
        ("select avg(loss) from examples where source = 'sql'", {"features"}),
        ("select text from examples where text like '%a%'", {"examples"}),
        ("select count(*) from scores where score > 0", {"scores"}),
        ("select count(*) from selections s join examples e on s.id = e.id where e.text like '%a%'", {"examples"}),
    ],
)
def test_only_what_is_asked_for_is_read(copy, opened, statement, kinds):
    assert query_sql(copy, statement).height
    assert set(opened) == kinds


def test_what_the_catalog_does_not_list_is_in_no_table(made):
    """A shard may hold more than the catalog lists."""
    with made.catalog.write() as db:
        db.execute("DELETE FROM selection_item")
        db.execute("DELETE FROM example WHERE example_id=?", (IDS[5],))
    assert set(query_sql(made, "select id, text from examples")["id"]) == set(IDS) - {IDS[5]}


def test_what_is_deleted_is_in_no_table(copy):
    chosen = selections.newest(copy)[0].example_ids[0]
    assert [n for n in TABLES if "id" in TABLES[n].columns and _has(copy, n, chosen)] >= ["examples", "members"]
    forget.begin(copy, picks.by_ids(copy, [chosen]))
    left = [name for name in TABLES if "id" in TABLES[name].columns and _has(copy, name, chosen)]
    assert left == [], "from the first moment on"
    forgetting.finish(copy)
    assert [name for name in TABLES if "id" in TABLES[name].columns and _has(copy, name, chosen)] == []
    assert query_sql(copy, "select count(*) from selections where void is not null").item() == 11


def _has(store, table, name):
    return query_sql(store, f"select count(*) from {table} where id = '{name}'").item() > 0


def test_merging_files_changes_no_table(copy):
    names = ["examples", "signals", "scores"]
    before = {name: copy.frame(name).collect().sort("id", *(["space"] if name == "signals" else [])) for name in names}
    done = compact(copy, grace=0)
    assert done.shards_after < done.shards_before
    for name, rows in before.items():
        assert copy.frame(name).collect().sort("id", *(["space"] if name == "signals" else [])).equals(rows), name


def test_a_store_that_is_merged_while_it_is_read_says_so(made, monkeypatch):
    from gradsift.datastore import where

    listed = where.example_shards(made)
    compact(made, grace=60)
    monkeypatch.setattr(where, "example_shards", lambda _store: listed)
    with pytest.raises(BusyError, match="run this again"):
        query_sql(made, "select count(*) from examples")


def test_a_damaged_file_is_said_with_its_number(made, tmp_path):
    (shard, *_) = made.catalog.rows("SELECT shard_id, name FROM shard WHERE kind='examples' ORDER BY shard_id")
    files = made.root if made.catalog.dialect == "sqlite" else made.root.parent / "files"
    (files / shard["name"]).write_bytes(b"cut")
    assert query_sql(made, "select count(*) from examples").item() == 12
    found = answer(made, "select text from examples order by text")
    for ask in (lambda: query_sql(made, "select max(length(text)) from examples"), lambda: list(found.parts()),
                lambda: found.write(tmp_path / "x.parquet"), lambda: list(answer(made, "select text from examples").parts())):  # fmt: skip
        with pytest.raises(CorruptionError, match=f"shard {shard['shard_id']} "):
            ask()
    assert answer(made, "select text, id from examples").count() == 12, "looks at no text"
    assert not (tmp_path / "x.parquet").exists()


@pytest.mark.parametrize(
    "predicate",
    ["chars > 8", "source = 'a'", "selected = 1 and chars < 9", "text like '%think%'", "line between 2 and 4"],
)
def test_a_where_of_both_languages_says_the_same(made, predicate):
    """SQLite's of `matching` and Polars' of SQL, where an example has one place."""
    with made.catalog.write() as db:
        db.execute("DELETE FROM origin WHERE line=99")
    assert sorted(query_sql(made, f"select id from examples where {predicate}")["id"]) == matching(made, predicate)


def test_fields_of_other_columns(made):
    assert query_sql(made, "select extra->>'quality' from examples order by line").to_dict(as_series=False) == {
        "extra->>quality": [str(k % 3) for k in range(12)]
    }
    said = "select e . extra ->> 'o''k' as ok /* ->> */ from examples as e where extra->>'quality' = 2 order by line"
    assert query_sql(made, said)["ok"].to_list() == [f"[{k}]" for k in (2, 5, 8, 11)]
    assert query_sql(made, "select * from examples where extra->>'$.quality' = '1'").columns == list(
        schema_of("examples")
    )
    assert query_sql(made, "select extra->>'nobody' from examples limit 1").item() is None
    counted = (
        "with e as (select * from examples) select extra->>'quality' as q, count(*) as n from e group by 1 order by 1"
    )
    assert query_sql(made, counted).rows() == [("0", 4), ("1", 4), ("2", 4)]


def test_parts_of_an_answer_come_one_after_the_other(made):
    given = answer(made, "select a.id from examples a cross join examples b cross join origins c")
    assert list(given.schema) == ["id"]
    assert sum(part.height for part in given.parts()) == 12 * 12 * 13 == given.count()
    assert list(answer(made, "select id from examples where chars < 0").schema) == ["id"]


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("", "there is no statement"),
        ("  -- nothing\n;", "there is no statement"),
        ("drop table examples", "begins with SELECT or WITH"),
        ("truncate table examples", "begins with SELECT or WITH"),
        ("explain select 1", "begins with SELECT or WITH"),
        ("show tables", "begins with SELECT or WITH"),
        ("create table x as select 1", "begins with SELECT or WITH"),
        ("delete from examples", "begins with SELECT or WITH"),
        ("(drop table examples)", "begins with SELECT or WITH"),
        ("select 1; drop table examples", "one statement at a time"),
        ("with x as (select 1) delete from examples", "looked at, not changed"),
        ("select * into x from examples", "looked at, not changed"),
        ("select * from read_csv('/etc/passwd')", "no function read_csv"),
        ("select * from READ_PARQUET ('/etc/passwd')", "no function READ_PARQUET"),
        ("select * from read_ndjson/* x */('/etc/passwd')", "no function read_ndjson"),
        ("select * from read_json--\n('/etc/passwd')", "no function read_json"),
        ("select * from \"read_csv\"('/etc/passwd')", "name is a plain word"),
        ("select * from 'read_csv'('/etc/passwd')", "name is a plain word"),
        ("select * from 'read_csv' /* x */ ('/etc/passwd')", "name is a plain word"),
        ("select * from main.'read_csv'('/etc/passwd')", "name is a plain word"),
        ("select * from (read_csv)('/etc/passwd')", "name is a plain word"),
        ("select * from [read_csv]('/etc/passwd')", "name is a plain word"),
        ("select * from examples e, 'read_parquet'('/etc/passwd') x", "name is a plain word"),
        ("select * from read_csv.('/etc/passwd')", "name is a plain word"),
        ("select * from main.read_csv('/etc/passwd')", "no function read_csv"),
        ("with examples as (select * from read_ipc('/x')) select * from examples", "no function read_ipc"),
        ("select id from examples where id in (select column_1 from read_csv('/x'))", "no function read_csv"),
        ("select (select count(*) from read_csv('/x')) from examples", "no function read_csv"),
        ("select * from lateral read_csv('/x')", "no function read_csv"),
        ("select 1 union all select * from read_csv('/x')", "no function read_csv"),
        ("select '\\' || read_csv('/etc/passwd') || '\\'", "a backslash before a quote"),
        ("select e'\\' from read_csv('/x') --'", "a backslash before a quote"),
        ("select e'x'", "put a space before 'x'"),
        ("select `id` from examples", "` at character 8 is no sign"),
        ("select $$a$$", r"\$ at character 8"),
        ("select id from examples # x", "# at character"),
        ("select 'open", "a text begins at character 8 and has no end"),
        ('select "open', "a quoted name begins at character 8"),
        ("select 1 /* open", "a comment begins at character 10"),
        ("select /* /* */ read_csv('x') */ 1", "no function read_csv"),
        ("select id\u00a0from examples", "at character 10 is no sign"),
        ("select ｒead_csv('x')", "at character 8 is no sign"),
        ("select len(text) from examples", r"no function len \(but length\)"),
        ("select extra->'a' from examples", "->> gives a field of"),
        ("select source->>'a' from examples", "->> gives a field of"),
        ("select * from exampels", "no table 'exampels'; did you mean `examples`"),
        ("select * from 'examples.csv'", "no table 'examples.csv'"),
        ('select * from "/etc/passwd"', "no table '/etc/passwd'; there are examples, origins"),
        ("select * from sqlite_master", "no table 'sqlite_master'"),
        ("select los from examples", "no column 'los' there; did you mean `loss`"),
        ("select quality from examples", "no column 'quality' there; there are id, source"),
        ("select sum(source) from examples where", "Expected: an expression"),
        ("select text + 1 from", "Expected"),
    ],
)
def test_what_does_more_than_look_or_is_no_statement_is_refused(made, statement, why):
    with pytest.raises(InputError, match=why):
        query_sql(made, statement)


@pytest.mark.parametrize("kind", ["csv", "parquet", "ndjson", "ipc"])
def test_a_plan_that_reads_files_is_refused_even_if_a_statement_for_it_were_let_pass(
    store, kind, tmp_path, monkeypatch
):
    path = tmp_path / f"x.{kind}"
    getattr(pl.DataFrame({"a": [1]}), f"write_{kind}")(path)
    text = f"select x.a, e.id from read_{kind}('{path}') x left join examples e on e.line = x.a"
    monkeypatch.setattr(
        "gradsift.datastore.selects.checked", lambda _text: Statement(text, ("examples",), (), star=False)
    )
    with pytest.raises(InputError, match="reads tables of the store alone"):
        query_sql(store, "select 1")
    monkeypatch.undo()
    assert query_sql(store, "select 'Csv SCAN [x]' as a, '\n Full Scan' as b").height == 1


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("select 'read_csv(''/etc/passwd'')' as a;", [("read_csv('/etc/passwd')",)]),
        ("select '--' || ';' || '/*' as a -- read_csv('x')", [("--;/*",)]),
        ('select source as "drop table x; (" from examples limit 1', [("a",)]),
        ("SELECT count(*) FROM examples WHERE source IN ('a', 'delete')", [(6,)]),
        ("(select 1 as a) union all (select 2) order by a", [(1,), (2,)]),
        ("select '\\d' as a", [("\\d",)]),
    ],
)
def test_words_in_texts_and_names_are_not_taken_for_more(made, statement, rows):
    assert query_sql(made, statement).rows() == rows


def test_every_function_that_is_listed_is_one_of_polars():
    """So that none of these reads anything: what Polars says of each is not that it does not know it."""
    context = pl.SQLContext({"x": pl.DataFrame({"a": [1.0]}).lazy()}, register_globals=False)
    for name in FUNCTIONS - {"position"}:
        checked(f"select {name}(a) from x")
        try:
            context.execute(f"select {name}(a) from x")
        except pl.exceptions.PolarsError as error:
            assert "unsupported function" not in str(error), name
    assert "\\" in context.execute("select '\\' as a from x").collect()["a"].item(), "no escapes in texts"


SLOW = """
import signal, sys
if sys.argv[2] == "ignoring":  # as what a script starts in the background does
    signal.signal(signal.SIGINT, signal.SIG_IGN)
from gradsift.datastore import frames
from gradsift.datastore.selects import answer
from gradsift.datastore.store import Store

def reading(store, names, read=frames.READERS["examples"]):
    print("begun", flush=True)
    yield from read(store, names)

frames.READERS["examples"] = reading
try:
    with Store(sys.argv[1], create=False) as store:
        many = ", ".join(f"examples e{k}" for k in range(int(sys.argv[3])))
        (part,) = answer(store, f"select count(*) from {many} where e0.chars + e1.chars >= 0").parts()
        print(part.item())
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.parametrize(("heed", "tables", "says"), [("heeding", 15, "stopped"), ("ignoring", 7, str(12**7))])
def test_a_statement_is_stopped_by_an_interrupt_and_never_cut_short(store, heed, tables, says):
    """Twelve to the fifteenth rows have no end; twelve to the seventh are counted whole where interrupts are ignored."""
    examples.add(store, [Example(IDS[k], chat(k), "a", "a.jsonl", k + 1) for k in range(12)])
    process = start("-c", SLOW, store.root, heed, tables)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=PATIENCE)
    assert out.splitlines()[-1] == says, errors
