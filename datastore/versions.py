"""Numbered versions of what runs made: of each pool, selection and mixture, by name.

A finished run has one version of each. Where that is what the newest number of the name stands for already (the same
content and, of selections and mixtures, the same recipe, hence the same export), the run confirms it; else it gets the
next number (`datastore/numbering.py`). A number is never given again, whatever `prune` drops.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradsift.datastore import outputs, runs
from gradsift.datastore.documents import object_of
from gradsift.datastore.engine import Row
from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import digest_file
from gradsift.datastore.numbering import HELD, catch_up
from gradsift.datastore.runs import Json, Moved, Named, Recipes, VersionReport
from gradsift.datastore.store import Store

KINDS = ("pool", "selection", "mixture")
WORDS = {  # for parts of a selection's spec that are no settings: those are the recipe's
    "pool": "the pool", "provenance": "where its rows were read", "target": "the target", "targets": "the targets",
    "spaces": "the feature spaces", "trials": "how methods were tried", "version": "the version of gradsift's methods",
}  # fmt: skip
REFERENCE = re.compile(r"(?:(pool|selection|mixture):)?(.+)@(\d{1,7})")  # eight digits may be the start of a digest


@dataclass(frozen=True)
class Version:
    """A numbered version. `content` is its dataset's or selection's number in the catalog, None where it was pruned;
    `void` says why it does not hold any more, None for one that does."""

    kind: str
    name: str
    number: int
    run_id: int
    digest: str
    rows: int
    content: int | None
    void: str | None

    def __str__(self) -> str:
        return label(self.kind, self.name, self.number)


@dataclass(frozen=True)
class Entry:
    """A line of the log: a version that a run has, when the run ended, and where it exported it."""

    run_id: int
    run: str
    ended: float
    report: VersionReport
    state: str  # "", "pruned", or "void: " and why
    export: str | None
    present: bool  # whether the export is where it was, as it was
    why: str = ""  # of a new number: that a deletion made it, or what changed though its rows did not


def is_number(reference: str) -> bool:
    """Whether a reference is of the form NAME@NUMBER: digits alone, up to seven."""
    return REFERENCE.fullmatch(reference) is not None


def find(store: Store, reference: str) -> Version:
    """The version that KIND@NUMBER, NAME@NUMBER or KIND:NAME@NUMBER names.

    Raises InputError that lists what there is.
    """
    matched = REFERENCE.fullmatch(reference)
    if matched is None:
        raise InputError(f"{reference!r} is not NAME@NUMBER; `gradsift log` lists versions")
    kind, name, number = matched[1], matched[2], int(matched[3])
    catch_up(store)
    known = names(store)
    if kind is not None:
        meant = [key for key in known if key == (kind, name)]
    else:
        meant = [key for key in known if key[1] == name and key[0] != "pool"]
        meant = meant or [key for key in known if key[0] == name]
    if len(meant) != 1:
        ways = ", ".join(f"{k}:{n}@{number}" if meant else f"{k}:{n}" for k, n in meant or known)
        problem = "is any of several; say" if meant else "names nothing that has versions; there are"
        raise InputError(f"{reference!r} {problem} {ways or 'none, for no run has finished'}")
    (key,) = meant
    version = next((v for v in numbered(store, *key) if v.number == number), None)
    if version is None:
        last = max(v.number for v in numbered(store, *key))
        raise InputError(f"{key[0]} {key[1]!r} has versions 1 to {last}, no {number}; `gradsift log` lists them")
    return version


def numbered(store: Store, kind: str, name: str) -> list[Version]:
    """All versions of a name, oldest first."""
    rows = store.catalog.rows(
        f"{HELD} WHERE v.kind=? AND v.name=? ORDER BY v.number",
        (kind, name),
    )
    return [_version(row) for row in rows]


def names(store: Store) -> list[tuple[str, str]]:
    """(kind, name) of everything that has versions."""
    rows = store.catalog.rows("SELECT DISTINCT kind, name FROM version ORDER BY kind, name")
    return [(row["kind"], row["name"]) for row in rows]


def usable(store: Store, version: Version) -> int:
    """Number in the catalog of what a version holds. Raises InputError for one that is void or was pruned, naming the
    version that stands for it."""
    if version.content is not None and version.void is None:
        return version.content
    later = [v for v in numbered(store, version.kind, version.name) if v.number > version.number]
    instead = next((v for v in later if v.content is not None and v.void is None), None)
    why = f"is void: {version.void}" if version.void is not None else "was pruned: its rows are no longer listed"
    use = f"; {instead} came after it" if instead else "; run its recipe again"
    raise InputError(f"{version} {why}{use}")


def recipes_of(store: Store, reference: str, chosen: Named) -> Recipes:
    """Recipes of a version's first run; of what is not named by number, of the newest run that made it."""
    if is_number(reference):
        return runs.get(store, find(store, reference).run_id).recipes
    return runs.recipe_of(store, chosen)


def manifest_of(store: Store, version: Version) -> tuple[str, Json] | None:
    """(sha256 of the manifest, versions of the programs) of the export that the version's first run made, or None."""
    row = store.catalog.one(
        "SELECT manifest, made_by FROM run_version WHERE run_id=? AND kind=? AND name=? AND number=? "
        "AND manifest IS NOT NULL",
        (version.run_id, version.kind, version.name, version.number),
    )
    return (row["manifest"], json.loads(row["made_by"])) if row else None


def was_exported(store: Store, version: Version) -> bool:
    """Whether the version's first run exported it."""
    row = store.catalog.one(
        "SELECT 1 FROM run_version WHERE run_id=? AND kind=? AND name=? AND number=? AND folder IS NOT NULL",
        (version.run_id, version.kind, version.name, version.number),
    )
    return row is not None


def of_run(store: Store, run_id: int) -> list[VersionReport]:
    """The versions that a finished run has: its pool's, then those of selections and mixtures."""
    rows = store.catalog.rows(
        "SELECT v.*, r.run_id AS by FROM run_version AS r JOIN version AS v USING (kind, name, number) "
        "WHERE r.run_id=? ORDER BY v.kind = 'mixture', v.kind = 'selection', v.name",
        (run_id,),
    )
    alone, first = one_pool(store), _first_numbers(rows)
    return [_report(store, row, first, alone=alone) for row in rows]


def log(store: Store, name: str | None = None) -> list[Entry]:
    """What each run has, the newest run first; of one name or kind only. Raises InputError for an unknown one."""
    catch_up(store)
    rows = store.catalog.rows(
        "SELECT v.*, r.run_id AS by, r.folder, r.manifest, run.name AS run, run.finished, run.summary, "
        "coalesce(d.void, s.void) AS void, coalesce(d.dataset_id, s.selection_id) AS content "
        "FROM run_version AS r JOIN version AS v USING (kind, name, number) "
        "JOIN run ON run.run_id = r.run_id LEFT JOIN dataset AS d USING (dataset_id) "
        "LEFT JOIN selection AS s USING (selection_id) "
        "ORDER BY run.finished DESC, r.run_id DESC, v.kind = 'mixture', v.kind = 'selection', v.name, v.number DESC"
    )
    wanted = [row for row in rows if name in (None, row["kind"], row["name"], f"{row['kind']}:{row['name']}")]
    if name is not None and not wanted:
        known = sorted({str(row["name"]) for row in rows})
        raise InputError(f"nothing named {name!r} has versions; there are {', '.join(known) or 'none'}")
    alone, first = one_pool(store), _first_numbers(rows)
    return [
        Entry(
            row["by"],
            row["run"],
            row["finished"],
            report,
            "pruned" if row["content"] is None else f"void: {row['void']}" if row["void"] is not None else "",
            folder,
            _is_there(folder, row["manifest"]),
            report.why,
        )
        for row in wanted
        for folder, report in [(_folder(store, row), _report(store, row, first, alone=alone))]
    ]


_Firsts = dict[tuple[str, str, int], int]  # the first number of a kind and name that a run made


def _first_numbers(rows: Sequence[Row]) -> _Firsts:
    first: _Firsts = {}
    for row in rows:
        key = (row["kind"], row["name"], row["run_id"])
        first[key] = min(first.get(key, row["number"]), row["number"])
    return first


def _why(store: Store, row: Row, first: _Firsts) -> str:
    """Why a version that the run made has its number, in a few words."""
    if row["number"] > first[row["kind"], row["name"], row["run_id"]]:
        return "after a deletion"  # a run makes one version of a name: the others stand for void ones
    change = object_of(row["change"], f"`change` of {row['name']}@{row['number']}")
    if change.get("came") or change.get("left") or change.get("before") is None:
        return ""
    known = {version.number: version for version in numbered(store, row["kind"], row["name"])}
    return "; ".join(["same rows", *changed(store, known[change["before"]], known[row["number"]])])


def changed(store: Store, one: Version, other: Version) -> list[str]:
    """What decided two versions and is not the same, one line of words; [] where nothing that is known differs."""
    a, b = decided(store, one), decided(store, other)
    differing = [name for name in {**a, **b} if a.get(name) != b.get(name)] if a and b else []
    words = list(dict.fromkeys(WORDS.get(name, name) for name in differing))
    return [f"{', '.join(words)} changed"] if words else []


def decided(store: Store, version: Version) -> Json:
    """What decided a selection or mixture, by its parts: of its spec, and of the recipe of its first run as it was
    written. {} of a pool, and of a version that was pruned."""
    row = store.catalog.one("SELECT spec FROM selection WHERE selection_id=?", (version.content,))
    if version.kind == "pool" or row is None:
        return {}
    recipes = runs.get(store, version.run_id).recipes
    written = {f"recipe {name}": value for name, value in recipes.written.items()}
    export = {"recipe export": recipes.resolved.get("export"), "recipe seed": recipes.resolved.get("seed")}
    return {**{k: v for k, v in json.loads(row["spec"]).items() if k in WORDS}, **written, **export}


def _folder(store: Store, row: Row) -> str | None:
    """Where the run of a row of the log exported it, wherever that is asked from; as it was recorded, if no more is
    known."""
    if row["folder"] is None:
        return None
    page = str(object_of(row["summary"], "`summary` of a run").get("report") or "")
    return outputs.here(store, row["folder"], page) or str(row["folder"])


def _is_there(folder: str | None, manifest: str | None) -> bool:
    path = Path(folder or "") / "manifest.json"
    return folder is not None and path.is_file() and digest_file(path) == manifest


def one_pool(store: Store) -> bool:
    """Whether the store has versions of one pool only, which then needs no name."""
    return len([name for kind, name in names(store) if kind == "pool"]) == 1


def _report(store: Store, row: Row, first: _Firsts, *, alone: bool) -> VersionReport:
    change, new = (
        object_of(row["change"], f"`change` of {row['name']}@{row['number']}"),
        row["run_id"] == row["by"],
    )
    moved = [Moved(**line) for line in change.pop("by_source", [])]
    whose = "" if alone and row["kind"] == "pool" else row["name"]  # of the only pool, `pool@3` says it
    name = label(row["kind"], whose, row["number"])
    if not new:  # the run found what was there
        change, moved = {"before": row["number"], "came": 0, "left": 0}, []
    return VersionReport(
        name, row["kind"], row["name"], row["number"], new, row["rows"],
        by_source=tuple(moved), why=_why(store, row, first) if new else "", **change,
    )  # fmt: skip


def label(kind: str, name: str, number: int) -> str:
    """A version as the log and messages name it."""
    if kind != "pool":
        return f"{name}@{number}"
    return f"pool:{name}@{number}" if name else f"pool@{number}"


def _version(row: Row) -> Version:
    return Version(
        row["kind"],
        row["name"],
        row["number"],
        row["run_id"],
        row["digest"],
        row["rows"],
        row["content"],
        row["void"],
    )
