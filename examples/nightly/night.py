"""A pool that lives: a first day, three nights of arriving files, a request to be deleted, and what each came to.

    python examples/nightly/night.py [--folder nights] [--small] [--no-prefect] [--json]

Runs the commands that a user would, in a folder of its own, and compares what they say, and what the store's catalog
and files hold, with what arrived and left. Ends with exit code 1 and a sentence where they differ. Some three minutes
on two cores; `--small` is for tests.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gradsift.cli import show
from gradsift.datastore.runs import Json
from gradsift.examples.nightly.arrivals import VAL_ROWS, File, arrivals, drop, target_lines
from gradsift.examples.nightly.truth import Truth, Unexpected, expect, exported, holding, ledger, texts_of_pool
from gradsift.pipelines.demo.data import Pair
from gradsift.pipelines.demo.model import STEPS, make_demo_model

HERE = Path(__file__).parent
SMALL = {"mix": 24, "steps": 3}  # rows of the mixture, and steps that the model is trained for
PAST_INGEST = (
    "checkpoint 0: gradients of"  # how the first line of progress begins that only comes after the pool was read
)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Night:
    """What one night came to: rows that were read in all and what became of them, rows that were new, gradients that
    were computed at all checkpoints, units of work and files that were made, versions, seconds."""

    night: str
    read: int
    refused: int
    repeats: int
    leaks: int
    deleted: int
    new: int
    gradients: int
    units: int
    files: int
    pool: str
    mixture: str
    seconds: int


@dataclass(frozen=True)
class Place:
    """The folder of the play, how its commands are run, and where they are shown."""

    folder: Path
    prefect: bool
    say: Say

    @property
    def store(self) -> Path:
        """The store's folder."""
        return self.folder / "store"

    @property
    def pool(self) -> Path:
        """Where files arrive."""
        return self.folder / "pool"

    def gradsift(self, *words: str) -> Any:
        """What a command says as data. Raises Unexpected where it fails."""
        self.say(" ".join(["$ gradsift", *(f'"{word}"' if " " in word else word for word in words)]))
        command = [sys.executable, "-m", "gradsift", *words, "--json"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        return _document(words, done.returncode, done.stdout, done.stderr)

    def run(self, during: Callable[[], None] | None = None) -> Json:
        """`gradsift run`; `during` is called once, while the run is in progress and has read the pool."""
        words = ["run", "recipe.yaml", *([] if self.prefect else ["--no-prefect"])]
        self.say(f"$ gradsift {' '.join(words)}")
        told = []
        with tempfile.TemporaryFile("w+") as out:
            command = [sys.executable, "-m", "gradsift", *words, "--json"]
            with subprocess.Popen(command, cwd=self.folder, stdout=out, stderr=subprocess.PIPE, text=True) as process:
                for line in process.stderr or ():
                    told.append(line)
                    if during is not None and line.startswith(PAST_INGEST):
                        during()
                        expect("the run, when the file had been dropped", process.poll(), None)
                        during = None
            out.seek(0)
            said = out.read()
        if during is not None and process.returncode == 0:
            raise Unexpected(f"the run never said {PAST_INGEST!r}, so nothing was dropped while it worked")
        made: Json = _document(words, process.returncode, said, "".join(told))
        return made


def _document(words: Sequence[str], code: int, out: str, errors: str) -> Any:
    if code:
        raise Unexpected(f"`gradsift {' '.join(words)}` ended with exit code {code}:\n{errors}")
    return json.loads(out)


@dataclass
class Play:
    """The state of the play: what is known, what the mixture held in each of its versions, and the nights so far."""

    place: Place
    truth: Truth = field(default_factory=Truth)
    pool: frozenset[Pair] = frozenset()
    mixtures: dict[str, frozenset[Pair]] = field(default_factory=dict)
    pools: dict[str, frozenset[Pair]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    nights: list[Night] = field(default_factory=list)

    def night(self, name: str, *arrived: File, late: File | None = None) -> None:
        """Files arrive, the recipe runs, and all that it made is compared with what is known. `late` arrives while it
        runs."""
        place = self.place
        for file in arrived:
            drop(place.pool, file)
        self.truth = self.truth.and_(*arrived)
        place.say(f"\n{name}: {', '.join(f'{file.name} arrives' for file in arrived) or 'no file arrives'}")
        before, start = ledger(place.store), time.perf_counter()
        result = place.run(None if late is None else lambda: self._drop_late(late))
        seconds = time.perf_counter() - start
        after, counts = ledger(place.store), self.truth.counts
        new, left = self.truth.usable - self.pool, self.pool - self.truth.usable
        read = result["ingest"]["pool"]
        leaks = sum(line["examples"] for line in read["left_out"])
        refused = sum(read["quarantined"].values())
        expect("rows that were read", result["funnel"]["read"], counts["read"])
        expect("rows that were refused", read["quarantined"], self.truth.bad)
        expect("rows that repeat another", read["duplicates"], counts["repeats"])
        expect("rows that leak the target", leaks, counts["leaks"])
        expect("rows that were deleted before", read["deleted"], counts["deleted"])
        expect("chats of the pool", texts_of_pool(place.store, read["used_dataset_id"]), self.truth.usable)
        after.balance()
        for row in result["rows"]:
            known = len(new) if row["role"] == "pool" else 0 if self.nights else VAL_ROWS
            space, what = row["space_id"], f"of {row['dataset']} at checkpoint {row['checkpoint']}"
            expect(f"gradients that were computed {what}", row["computed"], known)
            expect(f"rows in new units {what}", after.planned[space] - before.planned.get(space, 0), known)
            if row["role"] == "pool":
                expect(f"gradient rows {what}", after.rows[space], len(self.truth.usable))
        pool, mixture = (self._version(result, kind) for kind in ("pool", "mixture"))
        expect("rows that came and left", _moved(pool), (len(new), len(left)) if self.nights else (None, None))
        self._remember(result, mixture)
        self.pool = self.truth.usable
        self.pools[pool["version"]] = self.pool
        computed = sum(row["computed"] for row in result["rows"])
        self.nights.append(
            Night(
                name, result["funnel"]["read"], refused, read["duplicates"], leaks, read["deleted"], len(new), computed,
                after.units - before.units, after.files - before.files, _words(pool), _words(mixture), round(seconds),
            )
        )  # fmt: skip

    def _drop_late(self, file: File) -> None:
        drop(self.place.pool, file)
        self.place.say(f"{file.name} arrives while it runs")

    @staticmethod
    def _version(result: Json, kind: str) -> Json:
        (version,) = (one for one in result["versions"] if one["kind"] == kind)
        found: Json = version
        return found

    def _remember(self, result: Json, version: Json) -> None:
        """What a mixture holds by its export; it must be of this night's pool, and differ from the last as is said."""
        (made,) = result["mixtures"]
        rows = frozenset(exported(Path(self.place.folder / made["export"])))
        expect("rows of the mixture that are not of this pool", sorted(rows - self.truth.usable), [])
        expect("rows of the mixture", len(rows), version["rows"])
        if self.mixtures:
            last = list(self.mixtures.values())[-1]
            expect("rows of the mixture that came and left", _moved(version), (len(rows - last), len(last - rows)))
            self.compare(list(self.mixtures)[-1], last, version["version"], rows)
        self.mixtures[version["version"]] = rows
        self.digests[version["version"]] = made["digest"]

    def somebody_of(self, file: File) -> str:
        """Who wrote the first row of a file that is in the mixture now."""
        mixture = list(self.mixtures.values())[-1]
        chosen = [row.author for row in file.rows if row.chat in mixture]
        if not chosen:
            raise Unexpected(f"the mixture holds no row of {file.name}, so nobody of it can be missed in later ones")
        return chosen[0]

    def compare(self, one: str, a: frozenset[Pair], other: str, b: frozenset[Pair]) -> None:
        """`gradsift diff` says how two versions differ."""
        found = self.place.gradsift("diff", one, other)
        counts = (found["in_both"], found["only_a"], found["only_b"])
        expect(f"{one} and {other}: rows in both, in one, in the other", counts, (len(a & b), len(a - b), len(b - a)))

    def delete(self, author: str) -> Json:
        """Somebody asks to be deleted, by the address under what they wrote."""
        place = self.place
        place.say(f"\nday 2: {author} asks to be deleted")
        old, stored, last = self.truth.usable, self.truth.stored, list(self.mixtures.values())[-1]
        before = holding(place.store, author)
        if not before:
            raise Unexpected(f"{author} is nowhere in the store before the deletion")
        made: Json = place.gradsift("delete", "--where", f"text like '%{author}%'", "--exports", "--yes")
        self.truth = self.truth.without(author)
        gone = old - self.truth.usable
        expect("examples that were deleted", made["examples"], len(stored - self.truth.stored))
        expect("files of the store that hold the address", holding(place.store, author), [])
        newest = {entry["report"]["kind"]: entry for entry in reversed(place.gradsift("log")) if not entry["state"]}
        pool, mixture = newest["pool"]["report"], newest["mixture"]["report"]
        expect("rows of the pool that came and left", _moved(pool), (0, len(gone)))
        expect("rows of the mixture that came and left", _moved(mixture), (0, len(last & gone)))
        self.pool = old - gone
        held = {
            key: {name: of for name, of in versions.items() if not of & gone}
            for key, versions in (("pool", self.pools), ("mixture", self.mixtures))
        }
        self.pools = held["pool"] | {pool["version"]: self.pool}
        self.mixtures = held["mixture"] | {mixture["version"]: last - gone}
        expect("rows of the export", frozenset(exported(place.store / "exports" / "nightly")), last - gone)
        ledger(place.store).balance()
        return {"author": author, "examples": made["examples"], "usable": len(gone), "void": made["versions"],
                "left": [pool["version"], mixture["version"]], "files": len(before)}  # fmt: skip

    def close(self) -> list[Json]:
        """The log holds what was seen each night, and the first and last version differ as they must; returns its
        lines."""
        place, known = self.place, {**self.pools, **self.mixtures}
        place.say("\nWhat there is now")
        entries = place.gradsift("log")
        held = [entry["report"]["version"] for entry in entries if not entry["state"] and entry["report"]["new"]]
        expect("versions that hold", sorted(held), sorted(known))
        for versions in (self.pools, self.mixtures):
            (one, a), *_, (other, b) = versions.items()
            self.compare(one, a, other, b)
        first = next(iter(self.mixtures))
        place.gradsift("export", first, f"{first}-again")
        expect(f"rows of {first}", frozenset(exported(place.folder / f"{first}-again")), self.mixtures[first])
        expect("files of the store that hold the address", holding(place.store, str(self.truth.gone)), [])
        expect("work that is not finished", place.gradsift("status")["live_work"], [])
        return [entry["report"] | {"state": entry["state"]} for entry in entries]


def _moved(version: Json) -> tuple[int | None, int | None]:
    return version["came"], version["left"]


def _words(version: Json) -> str:
    if version["came"] is None:
        return f"{version['version']}, {version['rows']} rows"
    return f"{version['version']} {version['came']} in, {version['left']} out"


def prepare(folder: Path, size: str) -> None:
    """The recipe, the target's rows and a small model, in a folder that holds nothing yet."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_load((HERE / "recipe.yaml").read_text("utf-8"))
    if size == "small":
        recipe["mix"]["examples"] = SMALL["mix"]
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), "utf-8")
    else:
        shutil.copy(HERE / "recipe.yaml", folder)
    (folder / "val.jsonl").write_bytes(target_lines(arrivals(size).target))
    make_demo_model(folder / "model", steps=SMALL["steps"] if size == "small" else STEPS)


def play(place: Place, size: str = "full", after: Callable[[Night], None] = lambda _night: None) -> Json:
    """Play it all; `after` is called after each night. Raises Unexpected where the store and what is known differ."""
    came, acts = arrivals(size), Play(place)

    def night(name: str, *files: File, late: File | None = None) -> None:
        acts.night(name, *files, late=late)
        one = acts.nights[-1]
        place.say(f"{one.new} new rows, {one.gradients} gradients in {one.units} units. {one.pool}; {one.mixture}.")
        after(one)

    night("day 0", *came.day_0)
    night("night 1", came.bad_rows)
    night("night 2", came.overlap)
    deleted = acts.delete(acts.somebody_of(came.bad_rows))
    night("night 3", came.evening, late=came.late)
    acts.truth = acts.truth.and_(came.late)
    night("night 4")
    return {
        "nights": [asdict(one) for one in acts.nights],
        "deleted": deleted,
        "versions": acts.close(),
        "digests": acts.digests,
    }


def main() -> int:
    """The command; returns its exit code."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument(
        "--folder", type=Path, default=Path("nights"), help="where it plays; must be empty or not there"
    )
    options.add_argument("--small", action="store_true", help="fewer rows and a model of no skill, for tests")
    options.add_argument(
        "--no-prefect", action="store_true", help="run without Prefect, which saves its start each night"
    )
    options.add_argument("--json", action="store_true", help="what each night came to, as one document")
    chosen = options.parse_args()
    folder, size = chosen.folder.absolute(), "small" if chosen.small else "full"
    if folder.exists() and any(folder.iterdir()):
        sys.stderr.write(f"error: {folder} holds something; name another --folder, or remove it\n")
        return 2

    def say(text: str) -> None:
        stream = sys.stderr if chosen.json else sys.stdout
        stream.write(f"{text}\n")
        stream.flush()

    try:
        prepare(folder, size)
        made = play(Place(folder, not chosen.no_prefect, say), size)
    except Unexpected as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if chosen.json:
        show.document(made)
        return 0
    columns = [name for name in made["nights"][0] if name not in ("leaks", "files", "pool", "mixture")]
    show.table("Nights", made["nights"], columns)
    show.table("Versions", made["nights"], ["night", "pool", "mixture"])
    deleted = made["deleted"]
    say(f"Deleted on day 2: {deleted['examples']} rows of {deleted['author']}, which are in no file of the store.")
    say(f"Void since: {', '.join(deleted['void'])}. What was left: {', '.join(deleted['left'])}.")
    say("No gradient was computed twice, and the versions differ by what arrived and left.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
