"""The way back: from every exported row to the very row that it was read from."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset

from gradsift.datastore import runs, selections
from gradsift.datastore.store import Store
from gradsift.pipelines.export.checkout import checkout
from gradsift.pipelines.export.export import export
from gradsift.pipelines.export.wayback import OURS
from gradsift.pipelines.recipe import Export, load_recipe
from gradsift.pipelines.runs.curate import curate


def row(kind, k, **more):
    return {"id": f"{kind}-{k}", "prompt": f"{kind} asks {k}", "completion": f"{kind} says {k}"} | more


class Machine:
    """A folder with a pool of files in several shapes, a recipe, and a store."""

    def __init__(self, folder, **recipe):
        self.folder, self.pool = folder, folder / "pool"
        (self.pool / "deep").mkdir(parents=True)
        self.raw = {}  # (file, line) -> the raw row
        self.jsonl("a.jsonl", [row("a", k, difficulty=["easy", "hard"][k % 2]) for k in range(12)])
        # the same chats again, under other ids: the place of the first file in the alphabet counts
        self.jsonl("deep/b.jsonl", [row("a", k) | {"id": f"twin-{k}"} for k in range(4)] + [row("b", 0, tags=["x"])])
        rows = [row("p", k, quality=k / 4) for k in range(9)]
        pq.write_table(pa.Table.from_pylist(rows), self.pool / "p.parquet")
        self.raw |= {("p.parquet", k): one for k, one in enumerate(rows, 1)}
        self.recipe = {"name": "mixed", "pool": [{"path": "pool", "name": "all"}], "mix": {"fraction": 1.0}} | recipe

    def jsonl(self, name, rows):
        """Write a file with an empty line before its rows."""
        (self.pool / name).write_text("\n" + "".join(json.dumps(one) + "\n" for one in rows), "utf-8")
        self.raw = {at: one for at, one in self.raw.items() if at[0] != name}
        self.raw |= {(name, k): one for k, one in enumerate(rows, 2)}

    def run(self):
        """One run; the rows of its export."""
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(self.recipe), "utf-8")
        with Store(self.folder / "store") as store:
            made = curate(load_recipe(self.folder / "recipe.yaml"), store)
        return load_dataset(made.mixtures[0].export, split="train").to_list()

    def exported(self, **options):
        """The rows of another export of the same."""
        with Store(self.folder / "store") as store:
            chosen = selections.get(store, "mixed")
            folder = export(store, chosen, runs.recipe_of(store, chosen), self.folder / "again", Export(**options))
        return pq.read_table(next((folder / "data").iterdir()))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return Machine(tmp_path / "one")


def check_the_way_back(rows, raw):
    for exported in rows:
        found = raw[exported["file"], exported["line"]]
        assert [turn["content"] for turn in exported["messages"]] == [found["prompt"], found["completion"]]
        others = {k: v for k, v in found.items() if k not in ("prompt", "completion")}
        assert json.loads(exported["extra"]) == others
        assert json.loads(exported["extra"])["id"] == found["id"]


def test_every_exported_row_leads_to_its_raw_row(machine):
    rows = machine.run()
    assert len(rows) == 12 + 1 + 9
    assert {r["file"] for r in rows} == {"a.jsonl", "deep/b.jsonl", "p.parquet"}
    assert not [r for r in rows if "twin" in r["extra"]], "of two places, that of the first file counts"
    check_the_way_back(rows, machine.raw)


def test_it_leads_there_after_the_files_changed(machine):
    machine.run()
    machine.jsonl("a.jsonl", [row("a", 100), *(row("a", k, difficulty="new") for k in reversed(range(12)))])
    machine.jsonl("deep/b.jsonl", [row("b", 0)])
    rows = machine.run()
    assert len(rows) == 13 + 1 + 9
    check_the_way_back(rows, machine.raw)


def test_promise_5_places_are_alike_on_every_machine(machine, tmp_path):
    """Other folders, files that are named one by one in another order, and a store that has read other files as well."""
    machine.run()
    other = Machine(tmp_path / "a" / "much" / "deeper")
    with Store(other.folder / "store") as store:
        more = other.folder / "elsewhere.jsonl"
        more.write_text("".join(json.dumps(row("a", k, source="all")) + "\n" for k in range(12)))
        (other.folder / "other.yaml").write_text(yaml.safe_dump(other.recipe | {"pool": [{"path": more.name}]}))
        curate(load_recipe(other.folder / "other.yaml"), store)
    other.run()
    kinds = [{"places": True, "extra": kind} for kind in ("json", "columns")]
    assert [machine.exported(**kind) for kind in kinds] == [other.exported(**kind) for kind in kinds]
    named = Machine(tmp_path / "named")
    paths = ["p.parquet", "deep/b.jsonl", "a.jsonl"]
    named.recipe["pool"] = [{"path": f"pool/{path}", "name": "all"} for path in paths]
    rows = {r["example_id"]: r for r in named.run()}
    for mine in machine.exported().to_pylist():
        found = rows[mine["example_id"]]
        assert (found["file"], found["line"]) == (mine["file"].rpartition("/")[2], mine["line"])


def test_other_columns_as_columns_of_their_types(machine):
    values = [
        {"n": 1, "f": 1, "flag": True, "mixed": 1, "text": "a", "score": 3, "extra_score": "taken", "huge": 2**70, "o": {"b": 1}},
        {"n": 2**60, "f": 0.5, "flag": False, "mixed": "x", "text": "b", "score": 4, "huge": 1, "o": [1]},
        {},
    ]  # fmt: skip
    machine.jsonl("a.jsonl", [row("a", k, **value) for k, value in enumerate(values)])
    for name in ("deep/b.jsonl", "p.parquet"):
        (machine.pool / name).unlink()
    machine.run()
    table = machine.exported(extra="columns")
    found = {r["id"]: r for r in table.to_pylist()}
    kinds = {name: str(table.schema.field(name).type) for name in table.column_names}
    wanted = {"n": "int64", "f": "double", "flag": "bool", "mixed": "string", "id": "string", "huge": "string",
              "o": "string", "extra_text": "string", "extra_extra_score": "int64", "extra_score": "string",
              "score": "double"}  # fmt: skip
    assert {name: kinds[name] for name in wanted} == wanted
    first, second, third = (found[f"a-{k}"] for k in range(3))
    assert (first["n"], second["n"], third["n"]) == (1, 2**60, None)
    assert (first["f"], second["flag"], first["mixed"], second["mixed"]) == (1.0, False, "1", '"x"')
    assert (first["huge"], first["o"], second["o"], third["o"]) == (str(2**70), '{"b":1}', "[1]", None)
    assert (first["extra_extra_score"], first["extra_score"], first["extra_text"]) == (3, "taken", "a")
    assert set(OURS) >= set(machine.exported().column_names)


def test_other_columns_never_have_names_that_trainers_know_a_kind_of_data_by(machine):
    """As `prompt` beside `messages`, which UltraChat has: TRL asks one of the two what the rows are."""
    chat = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    machine.jsonl("a.jsonl", [{"messages": chat, "prompt": "u", "completion": "a", "rejected": "b", "note": 1}])
    machine.run()
    names = set(machine.exported(extra="columns").column_names)
    assert names >= {"messages", "extra_prompt", "extra_completion", "extra_rejected", "note"}
    assert not names & {"prompt", "completion", "rejected"}


def test_an_export_without_places_and_other_columns(machine):
    machine.run()
    plain = machine.exported(places=False, extra="none").column_names
    assert not {"file", "line", "extra"} & set(plain)
    assert {"file", "line"} <= set(machine.exported(extra="none").column_names)


def test_lines_of_jsonl_are_read_as_the_same_rows(machine):
    machine.recipe["export"] = {"format": "jsonl"}
    check_the_way_back(machine.run(), machine.raw)


def test_a_compressed_file_and_a_folder_of_shards_have_places(tmp_path, monkeypatch):
    machine = Machine(tmp_path / "z")
    with gzip.open(machine.pool / "deep" / "z.jsonl.gz", "wt") as file:
        file.write(json.dumps(row("z", 0)) + "\n")
    machine.raw["deep/z.jsonl.gz", 1] = row("z", 0)
    check_the_way_back(machine.run(), machine.raw)


def test_an_old_version_has_the_places_of_its_time(machine):
    """Its files were written anew since, in another order, with other columns: the bytes are those of then."""
    machine.run()
    folder = machine.folder / "store" / "exports" / "mixed"
    then = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    machine.jsonl("a.jsonl", [row("a", k, difficulty="new") for k in reversed(range(13))])
    machine.run()
    with Store(machine.folder / "store") as store:
        made = checkout(store, "mixture@1", machine.folder / "first")
    assert made.as_then
    assert {p.name: p.read_bytes() for p in (machine.folder / "first").rglob("*") if p.is_file()} == then


def test_a_version_that_is_found_again_says_where_its_rows_are_now(machine):
    """The same rows at other lines are the same version: an export names the lines of now, a check-out those of then."""
    machine.run()
    manifest = (machine.folder / "store" / "exports" / "mixed" / "manifest.json").read_bytes()
    machine.jsonl("a.jsonl", [row("a", k, difficulty=["easy", "hard"][k % 2]) for k in reversed(range(12))])
    check_the_way_back(machine.run(), machine.raw)
    with Store(machine.folder / "store") as store:
        checkout(store, "mixture@1", machine.folder / "first")
    assert (machine.folder / "first" / "manifest.json").read_bytes() == manifest
