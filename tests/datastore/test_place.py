"""Where a store's parts are: place.json, what may stand in it, and stores whose files are elsewhere."""

import json
import os
import pickle
from dataclasses import replace

import pytest

from gradsift.datastore import maintenance
from gradsift.datastore.errors import InputError, NoStoreError
from gradsift.datastore.local import LocalFiles
from gradsift.datastore.place import PLACE_NAME, WORKER_FOLDER, Place, check_urls, keep, place_of, settled
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate

SHARED = ("postgresql://host/db?schema=team", "s3://bucket/prefix?region=eu-west-1")


def test_a_plain_folder_is_all_of_its_store_and_says_nothing(tmp_path):
    with Store(tmp_path / "store") as store:
        assert store.place == Place(tmp_path / "store")
    assert not (tmp_path / "store" / PLACE_NAME).exists()


def test_a_place_is_written_once_and_read_back(tmp_path):
    place = Place(tmp_path / "store", *SHARED)
    assert settled(place) == place
    keep(place)
    assert place_of(place.root) == settled(Place(place.root)) == place
    assert json.loads((place.root / PLACE_NAME).read_text()) == {"catalog_url": SHARED[0], "store_url": SHARED[1]}
    keep(place)
    assert [p.name for p in place.root.iterdir()] == [PLACE_NAME]


@pytest.mark.parametrize("name", ["catalog_url", "store_url"])
def test_a_folder_of_another_store_is_refused(tmp_path, name):
    keep(Place(tmp_path, *SHARED))
    known = place_of(tmp_path)
    other = replace(known, **{name: {"catalog_url": "postgresql://other/db", "store_url": "s3://other"}[name]})
    with pytest.raises(
        InputError, match=f"the folder of a store whose {name} is {getattr(known, name)}".replace("?", ".")
    ):
        settled(other)
    assert settled(known) == known


def test_a_folder_with_a_catalog_of_its_own_is_refused(tmp_path):
    Store(tmp_path).close()
    with pytest.raises(InputError, match="has no catalog_url; asked for is postgresql://host"):
        Store(Place(tmp_path, *SHARED))


@pytest.mark.parametrize(
    ("catalog", "files", "what"),
    [
        ("postgresql://host/db", None, "catalog_url needs store_url"),
        ("mysql://host/db", None, "must begin with postgresql://"),
        ("host/db", None, "must be a URL"),
        ("postgresql://me:hush@host/db", None, "PGPASSWORD"),
        ("postgresql://host/db?password=hush", None, "PGPASSWORD"),
        ("postgresql://[host/db", None, "is no URL"),
        (None, "bucket/prefix", "must be a URL"),
        (None, "s3://key:hush@bucket", "the environment or a profile"),
        (None, "s3://key@bucket", "must not name a user"),
        (None, "s3://bucket?secret_key=hush", "the environment or a profile"),
        (None, 7, "must be a URL"),
    ],
)
def test_a_url_that_cannot_be_used_or_is_secret_is_refused(tmp_path, recipe_data, catalog, files, what):
    with pytest.raises(InputError, match=what) as refused:
        check_urls(catalog, files)
    assert "hush" not in str(refused.value)
    if files != 7:
        with pytest.raises(InputError, match=what):
            parse_recipe({**recipe_data, "catalog_url": catalog, "store_url": files})
    (tmp_path / PLACE_NAME).write_text(json.dumps({"catalog_url": catalog, "store_url": files}))
    with pytest.raises(InputError, match=what):
        Store(tmp_path, create=False)


@pytest.mark.parametrize("text", ["{", "[]", '{"catalog": "x"}', "\x00"])
def test_a_broken_place_is_named_with_the_way_out(tmp_path, text):
    (tmp_path / PLACE_NAME).write_text(text)
    with pytest.raises(InputError, match=r"place\.json .*gradsift connect"):
        Store(tmp_path, create=False)


def test_a_worker_has_a_folder_of_its_own_where_the_catalog_is_shared(tmp_path, monkeypatch):
    monkeypatch.setenv(WORKER_FOLDER, str(tmp_path / "mine"))
    mine = Place(tmp_path, *SHARED).on_worker()
    assert mine == Place(mine.root, *SHARED)
    assert mine.root.parent == tmp_path / "mine"
    other = Place(tmp_path, SHARED[0].replace("team", "other"), SHARED[1]).on_worker()
    assert other.root != mine.root, "a worker of a cluster works on many stores"
    assert Place(tmp_path).on_worker() == Place(tmp_path), "its catalog is in that folder and nowhere else"
    assert pickle.loads(pickle.dumps(Place(tmp_path, *SHARED))) == Place(tmp_path, *SHARED)


def test_a_catalog_is_not_opened_with_files_of_another_place(tmp_path):
    def url(name):
        return (tmp_path / name).as_uri()

    Store(Place(tmp_path / "store", store_url=url("files"))).close()
    (tmp_path / "store" / PLACE_NAME).write_text(json.dumps({"catalog_url": None, "store_url": url("other")}))
    with pytest.raises(InputError, match=r"files of this catalog are in .*/files, not in .*/other"):
        Store(tmp_path / "store")
    (tmp_path / "store" / PLACE_NAME).unlink()
    with pytest.raises(InputError, match=r"files of this catalog are in .*/files, not in the folder"):
        Store(tmp_path / "store")
    other = {"catalog_url": None, "store_url": url("files") + "/?region=x"}
    (tmp_path / "store" / PLACE_NAME).write_text(json.dumps(other))
    Store(tmp_path / "store").close()


def test_what_cannot_be_opened_leaves_no_place_behind(tmp_path):
    with pytest.raises(NoStoreError):
        Store(Place(tmp_path / "store", store_url=tmp_path.as_uri()), create=False)
    assert not (tmp_path / "store").exists()


def test_files_of_a_store_can_be_in_another_folder(tmp_path, recipe_data):
    recipe = parse_recipe({**recipe_data, "store_url": (tmp_path / "shared").as_uri()})
    with Store(recipe.place(tmp_path / "store")) as store:
        curate(recipe, store)
    kinds = {path.name for path in (tmp_path / "shared").iterdir()}
    assert {"examples", "features"} <= kinds
    assert not kinds & {path.name for path in (tmp_path / "store").iterdir()}
    with Store(tmp_path / "store", create=False) as again:
        assert again.place.store_url == (tmp_path / "shared").as_uri()


def put(store, age=0.0):
    """A committed file of a store whose files are in a folder, as old as that."""
    number = store.commit_file("examples", ".parquet", 1, lambda handle: handle.write(b"x"), lambda *_: None)
    name = store.catalog.one("SELECT name FROM shard WHERE shard_id=?", (number,))["name"]
    path = store.backend.root / name
    os.utime(path, (path.stat().st_mtime - age,) * 2)
    return path


def test_files_of_one_catalog_are_no_garbage_of_another(tmp_path):
    """A schema misspelt makes a new catalog, which knows none of the team's files."""
    url = (tmp_path / "files").as_uri()
    with Store(Place(tmp_path / "team", store_url=url)) as team:
        path = put(team, age=1e6)
        with pytest.raises(InputError, match=r"belong to another catalog.*misspelt"):
            Store(Place(tmp_path / "new", store_url=url))
        assert not (tmp_path / "new" / PLACE_NAME).exists()
        assert maintenance.collect(team) == []
        assert maintenance.verify(team) == []
    with Store(tmp_path / "team", create=False) as again:
        with again.catalog.write() as db:
            db.execute("DELETE FROM shard")
        assert [name for name, _ in maintenance.collect(again)] == [f"examples/{path.name}"]


def test_two_catalogs_that_ask_for_a_place_at_once_do_not_both_get_it(tmp_path, monkeypatch):
    url, real = (tmp_path / "files").as_uri(), LocalFiles.write

    def write(self, kind, suffix, fill):
        real(self, kind, ".another", fill)
        return real(self, kind, suffix, fill)

    monkeypatch.setattr(LocalFiles, "write", write)
    with pytest.raises(InputError, match="another catalog"):
        Store(Place(tmp_path / "store", store_url=url))
    assert [path.suffix for path in (tmp_path / "files" / "owner").iterdir()] == [".another"], "its own was taken back"


@pytest.mark.parametrize("doing", [Store.sweep, maintenance.collect, maintenance.collect_at_once])
def test_a_store_that_names_a_folder_of_somebodys_deletes_nothing_there(tmp_path, doing):
    """The folder was given to its user: place.json and catalog are forged."""
    home = tmp_path / "home"
    for name in ("Documents/thesis.pdf", "checkpoint/best.pt"):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text("years of work")
        os.utime(home / name, (1, 1))
    with (
        Store(Place(tmp_path / "store", store_url=(tmp_path / "files").as_uri())) as store,
        store.catalog.write() as db,
    ):
        db.execute("UPDATE place SET store_url=?", (home.as_uri(),))
        db.execute(
            "INSERT INTO doomed (name, after, shard_id, kind, bytes, sha256) "
            "VALUES ('Documents/thesis.pdf', 0, 1, 'examples', 1, 'x')"
        )
    (tmp_path / "store" / PLACE_NAME).write_text(json.dumps({"catalog_url": None, "store_url": home.as_uri()}))
    with Store(tmp_path / "store", create=False) as store, pytest.raises(InputError, match="not known to be of this"):
        doing(store)
    assert {path.name for path in home.rglob("*.*")} == {"thesis.pdf", "best.pt"}


def test_a_url_that_cannot_be_used_leaves_nothing_behind(tmp_path, s3_server):
    """Neither a catalog nor a place: the right one is taken afterwards."""
    where = f"?endpoint_override={s3_server}&scheme=http&region=us-east-1"
    with pytest.raises(InputError, match="no-such-bucket"):
        Store(Place(tmp_path / "store", store_url=f"s3://no-such-bucket/x{where}"))
    assert not (tmp_path / "store" / "catalog.sqlite").exists()
    Store(Place(tmp_path / "store", store_url=(tmp_path / "files").as_uri())).close()


def test_a_place_of_another_catalog_is_not_remembered(tmp_path):
    files = (tmp_path / "files").as_uri()
    Store(Place(tmp_path / "one", store_url=files)).close()
    with pytest.raises(InputError, match="belong to another catalog"):
        Store(Place(tmp_path / "two", store_url=files))
    with Store(tmp_path / "two") as plain:
        assert plain.catalog.one("SELECT * FROM place") is None
