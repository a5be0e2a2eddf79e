"""Each run keeps its report: the newest by its name, all by their numbers; listed, mended, and forgotten."""

import json
import os
import time
from dataclasses import replace

import pytest
from planted import by_ids
from running import gradsift

from gradsift.datastore import picks, runs
from gradsift.datastore.errors import InputError
from gradsift.datastore.maintenance import verify
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.report.kept import kept_pages, listed, newest_page, page_of, read_page
from gradsift.pipelines.report.report import keep_report, report, write_report
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.forget import delete
from gradsift.pipelines.runs.repair import mend
from gradsift.pipelines.version import VERSION

SECRET = "zanzibarqueen"


@pytest.fixture
def twice(tmp_path, write_jsonl):
    """A store of two runs of one name, the second of another size, and the first row of the pool."""
    rows = [{"prompt": f"q {k} {SECRET if k == 0 else ''}", "completion": f"a {k}", "source": "s"} for k in range(9)]
    pool = [{"path": str(write_jsonl(*rows))}]
    with Store(tmp_path / "store") as store:
        for size in (4, 9):
            curate(parse_recipe({"name": "mix", "pool": pool, "mix": {"examples": size}}), store)
        yield store


def names(store):
    return sorted(path.name for path in (store.root / "reports").iterdir())


def test_each_run_keeps_its_report_and_the_newest_has_the_name(twice):
    assert names(twice) == [f"mix{part}.{ending}" for part in ("", ".run1", ".run2") for ending in ("html", "json")]
    newest, first = newest_page(twice, "mix"), page_of(twice, runs.get(twice, 1))
    assert newest.read_bytes() == page_of(twice, runs.get(twice, 2)).read_bytes()
    assert "The mixture took 9 rows." in newest.read_text()
    assert "The mixture took 4 rows." in first.read_text()
    assert json.loads(first.with_suffix(".json").read_text())["run"] == 1


def test_a_page_made_again_later_is_the_same_to_the_byte(twice, monkeypatch):
    """Also an older run's, though its name has chosen otherwise since; the date is the run's own."""
    pages = [newest_page(twice, "mix"), *(page for page, _ in kept_pages(twice))]
    before = {page: page.read_bytes() for page in pages}
    monkeypatch.setattr(time, "time", lambda: 4e9)
    for run_id in (1, 2):
        keep_report(twice, runs.get(twice, run_id))
    assert {page: page.read_bytes() for page in pages} == before
    document = report(twice, runs.get(twice, 1))
    ended = twice.catalog.one(
        "SELECT strftime('%Y-%m-%d %H:%M UTC', finished, 'unixepoch') AS at FROM run WHERE run_id=1"
    )
    assert document.date == ended["at"]
    assert {fact["what"] for fact in document.facts} >= {"run", "finished", "method", "versions"}
    versions = next(fact["value"] for fact in document.facts if fact["what"] == "versions")
    assert versions.startswith(f"gradsift {VERSION}, ")
    assert {"torch", "transformers"} <= {one.split()[0] for one in versions.split(", ")}
    assert "examples: 4" in document.recipe


def test_versions_are_of_the_run_not_of_now(twice, monkeypatch):
    then = runs.get(twice, 1).result.made_with
    monkeypatch.setattr("gradsift.pipelines.version.version", lambda _: "99")
    assert {fact["what"]: fact["value"] for fact in report(twice, runs.get(twice, 1)).facts}["versions"] == ", ".join(
        f"{name} {number}" for name, number in then.items()
    )


def test_runs_are_listed_with_what_they_found(twice):
    second, first = listed(twice)
    assert (first.run, first.name, first.headline) == (1, "mix", "mix: Not measured")
    assert first.path.endswith("reports/mix.run1.html")
    assert second.path.endswith("reports/mix.run2.html")
    for page, _ in kept_pages(twice):
        page.unlink()
    second, first = listed(twice)
    assert (first.path, second.path) == ("", str(newest_page(twice, "mix"))), "its name's page is the newest run's"


def test_a_kept_page_is_read_from_the_stores_own_folder_alone(twice, tmp_path):
    """Not through a link, of whatever part of its path, and not under a name that leads elsewhere."""
    run = runs.get(twice, 1)
    page = page_of(twice, run)
    assert read_page(twice, run) == page.read_text("utf-8")
    secret = tmp_path / "secret.html"
    secret.write_text(SECRET)
    page.unlink()
    page.symlink_to(secret)
    with pytest.raises(InputError, match="`gradsift report --run 1` makes it"):
        read_page(twice, run)
    page.unlink()
    os.mkfifo(page)
    with pytest.raises(InputError, match="has no report"):
        read_page(twice, run)
    (twice.root / "reports").rename(tmp_path / "elsewhere")
    (twice.root / "reports").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="has no report"):
        read_page(twice, runs.get(twice, 2))
    (tmp_path / "out.run1.html").write_text(SECRET)
    with pytest.raises(InputError, match="has no report"):
        read_page(twice, replace(run, name=f"../../{tmp_path.name}/out"))


@pytest.mark.slow
def test_the_command_lists_and_writes_the_report_of_any_run(twice, tmp_path):
    root = twice.root
    twice.close()
    (root / "reports" / "mix.run1.html").unlink()
    found = json.loads(gradsift("report", "--list", "--json", "--store", root).stdout)
    assert [(one["run"], one["path"]) for one in found] == [(2, str(root / "reports" / "mix.run2.html")), (1, "")]
    assert "mix.run1.html" in gradsift("report", "--run", "1", "--store", root).stdout.replace("\n", "")
    assert "took 4 rows" in (root / "reports" / "mix.run1.html").read_text()
    assert "took 9 rows" in (root / "reports" / "mix.html").read_text(), "an older run's does not take its place"
    assert json.loads(gradsift("report", "--run", "1", "--json", "--store", root).stdout)["run"] == 1
    assert "no finished run 7" in gradsift("report", "--run", "7", "--store", root, code=2).stderr
    gradsift("report", "--list", "--run", "1", "--store", root, code=2)


def test_a_kept_report_that_is_cut_is_mended_and_one_that_is_gone_is_not_missed(twice):
    page = page_of(twice, runs.get(twice, 1))
    whole = page.read_bytes()
    page.write_bytes(whole[:50])
    (done,) = mend(twice)
    assert (done.kind, done.file, done.state) == ("report", "reports/mix.run1.html", "mended")
    assert page.read_bytes() == whole
    page.unlink()
    page.with_suffix(".json").unlink()
    assert mend(twice) == []
    assert verify(twice) == []


def test_promise_8_a_deletion_leaves_nothing_in_kept_reports(twice):
    """Each is written again of its own run, also one of which only the JSON is left; others' files stay."""
    reports = twice.root / "reports"
    (gone,) = picks.by_predicate(twice, f"text like '%{SECRET}%'").ids
    for page in ("mix.html", "mix.run1.html", "mix.run1.json", "mix.run2.json", "mix.run9.html"):
        with (reports / page).open("a") as file:
            file.write(SECRET)
    (reports / "mix.run1.html").unlink()
    delete(twice, by_ids(gone))
    for path in reports.iterdir():
        assert SECRET not in path.read_text(), path.name
        assert gone[:8] not in path.read_text(), path.name
    assert "mix.run9.html" not in names(twice), "no run wrote it"
    assert json.loads((reports / "mix.run2.json").read_text())["run"] == 2


def test_a_run_that_is_not_there_is_refused(twice):
    with pytest.raises(InputError, match="no finished run 5"):
        runs.get(twice, 5)
    assert write_report(twice, twice.root / "x.html", runs.get(twice, 1)).exists()
