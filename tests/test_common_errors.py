"""docs/common-errors.md: each heading is a message that the code gives, provoked here."""

import json
import re
import shutil

import pytest
from running import ROOT
from s3 import CREDENTIALS

from gradsift.datastore import files, leases, runs
from gradsift.datastore.errors import GradsiftError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.objects import ObjectFiles
from gradsift.datastore.place import check_urls
from gradsift.datastore.store import Store
from gradsift.pipelines.export.place import _refuse_clash
from gradsift.pipelines.features.gradients import require_rows
from gradsift.pipelines.model.encode import template_notes
from gradsift.pipelines.model.labels import check_labels
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.model.positions import check_length
from gradsift.pipelines.pool.files import rows_of
from gradsift.pipelines.recipe import Encoding, Model, load_recipe, packages, parse_recipe
from gradsift.pipelines.report.answers import HEADLINES
from gradsift.pipelines.runs.dryrun import plan_run

PAGE = ROOT / "docs" / "common-errors.md"
CHAT = [{"role": "user", "content": "Say it. " * 40}, {"role": "assistant", "content": "It."}]


class Place:
    """What the messages are provoked with: a folder, a recipe, a model."""

    def __init__(self, folder, data, model):
        self.folder, self.data, self.model = folder, data, model

    def recipe(self, **changes):
        return parse_recipe(self.data | changes)

    def random(self, **changes):
        """A recipe without a model, of `n` good rows and what else `changes` say."""
        plain = {name: self.data[name] for name in ("name", "pool", "targets")}
        return parse_recipe(plain | {"select": {"method": "random", "examples": 2}} | changes)

    def rows(self, *rows, name="rows.jsonl"):
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [{"path": str(path)}]

    def plan(self, recipe):
        return plan_run(recipe, self.folder / "none")

    def tokenizer(self):
        return open_model(Model(path=str(self.model))).tokenizer

    def broken_model(self, *names, **written):
        """A copy of the model without some files, and with other bytes in some."""
        folder = self.folder / "broken"
        shutil.copytree(self.model, folder)
        for name in names:
            (folder / name).unlink(missing_ok=True)
        for name, text in written.items():
            (folder / f"{name}.safetensors").write_text(text)
        return open_model(Model(path=str(folder)))


def _mostly_refused(place):
    rows = [*({"foo": k} for k in range(5)), {"prompt": "Hi", "completion": "Oh"}, {"prompt": "Ho", "completion": "Ah"}]
    return place.plan(place.random(pool=place.rows(*rows))).warnings[0]


def _no_template(place):
    tokenizer = place.tokenizer()
    tokenizer.chat_template = None
    return template_notes(tokenizer)[0]


def _empty(place):
    (place.folder / "empty").mkdir()
    place.plan(place.random(pool=[{"path": str(place.folder / "empty")}]))


def _busy(place):
    root = place.folder / "s"
    with Store(root) as one, Store(root) as other, leases.alone(one, "run"), leases.alone(other, "run again"):
        pass


def _full(place):
    with files.disk_errors(place.folder / "x"):
        raise OSError(28, "No space left on device")


def _damaged(place):
    with Store(place.folder / "s") as store:
        written = store.backend.write("features", ".bin", lambda handle: handle.write(b"as it was"))
        (place.folder / "s" / written.name).write_bytes(b"as it is.")
        store.backend.check(written)


def _newer(place):
    with Store(place.folder / "s") as store, store.catalog.write() as db:
        db.execute(
            "UPDATE schema_migrations SET version = 999 WHERE version = (SELECT max(version) FROM schema_migrations)"
        )
    Store(place.folder / "s")


def _taken(place):
    for name in ("a", "b"):
        (place.folder / name).write_text(name)
    _refuse_clash(place.folder / "a", place.folder / "b", "a belongs at b, where another file is by now")


def _without_run(place):
    with Store(place.folder / "s") as store:
        runs.last_run(store)


def _gone_server(place):
    list(ObjectFiles("s3://bucket?endpoint_override=127.0.0.1:1&scheme=http", place.folder).list("features"))


PROVOKED = {
    "there is no recipe": lambda p: load_recipe(p.folder / "none.yaml"),
    "unknown key": lambda p: p.recipe(modle={}),
    "`select` needs `targets`": lambda p: p.recipe(targets={}),
    "`validate` measures": lambda p: parse_recipe(
        {"name": "x", "pool": p.data["pool"], "mix": {"examples": 2}, "validate": {}}
    ),
    "encoding.max_length is": lambda p: check_length(
        p.recipe(encoding={"max_length": 100_000}), open_model(Model(path=str(p.model)))
    ),
    "there is no file": lambda p: p.plan(p.random(pool=[{"path": str(p.folder / "none.jsonl")}])),
    "holds no": _empty,
    "is of no known kind": lambda p: list(rows_of(p.folder / "pool.docx")),
    "gives no usable": lambda p: p.plan(p.random(pool=p.rows({"foo": 1}, {"foo": 2}))),
    "rows of": _mostly_refused,
    "rows lose": lambda p: check_labels(p.tokenizer(), Encoding(max_length=16), {"targets.sql.val": [CHAT]}),
    "none of": lambda p: check_labels(p.tokenizer(), Encoding(), {"targets.sql.val": [CHAT[:1]]}),
    "there is no model": lambda p: open_model(Model(path=str(p.folder / "none"))),
    "is not a model": lambda p: open_model(Model(path=str(p.folder))),
    "has no tokenizer": lambda p: p.broken_model("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    "download it again": lambda p: p.broken_model(model="version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "The tokenizer has no": _no_template,
    "the tokenizer's chat": lambda p: require_rows(Dataset(1, "pool", "small", "", [], []), {"unrenderable": 9}),
    "needs the package": lambda p: packages.check(p.random(select={"method": "bm25", "examples": 2})),
    "is not a store": lambda p: Store(p.folder / "none", create=False),
    "no run has finished": _without_run,
    "is working on": _busy,
    "no space left": _full,
    "does not match its": _damaged,
    "was written by": _newer,
    "store_url holds": lambda p: check_urls(None, "s3://bucket/x?secret_key=k"),
    "there are no credentials": lambda p: _gone_server(p),
    "did not do what": lambda p: _gone_server(p),
    "and `memory` allows": lambda p: p.plan(p.random(memory="9KB")).notes[0],
    "move it away": _taken,
    "No evidence": lambda p: HEADLINES["no evidence"],
}
HEADINGS = re.findall(r"^### (.*)$", PAGE.read_text("utf-8"), re.M)


@pytest.mark.parametrize("heading", HEADINGS)
def test_each_heading_is_a_message(heading, tmp_path, recipe_data, model_dir, monkeypatch):
    (provoke,) = [provoke for start, provoke in PROVOKED.items() if heading.startswith(start)]
    if heading.startswith("needs the package"):
        monkeypatch.setattr(packages, "find_spec", lambda name: None)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    if heading.startswith("there are no credentials"):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    try:
        said = provoke(Place(tmp_path, recipe_data, model_dir))
    except GradsiftError as error:
        said = str(error)
    pieces = (piece.strip() for piece in heading.split("…"))
    pattern = ".*".join(re.escape(piece) for piece in pieces)
    assert re.search(pattern, " ".join(str(said).split())), said


def test_all_that_is_provoked_is_on_the_page():
    assert len(HEADINGS) == len(PROVOKED)
