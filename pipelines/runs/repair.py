"""`gradsift verify --repair`: find what is damaged, and make again whatever can be.

In the order in which things are made from each other: text from its sources, values of examples (left to whoever needs
them), checkpoints by training, feature rows by a pass, tables of scores by choosing again, search indexes, reports.
What comes out takes the damaged file's place only where it is known to be the same: a text by its digest, a checkpoint
by its tensors', a choice by its digest; a feature row by its space, for other hardware rounds otherwise.

What cannot be made again is listed with what it takes down and stays, until that is accepted. What could be, were its
source or model within reach, stays whatever is accepted, and all that is made from it. Each thing is one
commit, and what is mended is no longer found: killed anywhere, the next call goes on. Cost: a pass over all bytes, and
what is damaged costs what it cost when it was made first.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from gradsift.datastore import checkpoints, examples, indexes, leases, maintenance, repair, runs, selections
from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import BusyError, CorruptionError, FeatureSpaceMismatch, InputError
from gradsift.datastore.index_build import refreshed
from gradsift.datastore.maintenance import Damage
from gradsift.datastore.repair import Unit, Unlike
from gradsift.datastore.store import Store
from gradsift.pipelines.export.whole import has_its_rows
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.report.kept import kept_pages, newest_page
from gradsift.pipelines.report.report import is_whole, write_report
from gradsift.pipelines.runs import remake
from gradsift.pipelines.runs.copies import damaged_exports, is_mine
from gradsift.pipelines.runs.forget import interrupted, resume
from gradsift.pipelines.runs.remake import Away, Lost, Past, Waits
from gradsift.pipelines.runs.rewrite import ANEW, exported

CANNOT = (Lost, InputError, CorruptionError, FeatureSpaceMismatch)  # and no other error: a full disk loses nothing

BUILD = "`gradsift index build` makes it again"
State = Literal["mended", "later", "lost", "kept", "noted"]


@dataclass(frozen=True)
class Mend:
    """A damaged file and what is done about it; in a plan, what would be. `state`: `mended` (made again), `later` (left
    to who needs it), `lost` (gone, with what it takes down), `kept` (nothing was done: its loss was not accepted; or,
    where it `waits`, what it is made from is out of reach, or waits itself, and it is no loss), `noted` (an export
    elsewhere, which is its owner's, was changed, though not in its rows). `rows` are made again; `lost` cannot be, and
    take down what `falls` says."""

    file: str
    kind: str
    problem: str
    state: State
    done: str
    rows: int = 0
    lost: int = 0
    falls: tuple[str, ...] = ()
    waits: bool = False

    @property
    def is_damage(self) -> bool:
        """Whether bytes of the store are wrong; a missing report is none, nor is what was noted."""
        return self.kind != "report" and self.state != "noted"


@dataclass
class _Job:
    """One call: what may be done, what is damaged, and the shards of it that nothing was done about. A plan's losses
    are still in the catalog, so they are noted: examples that are `gone`, shards of checkpoints and feature rows that
    are `dropped`."""

    store: Store
    past: Past
    plan: bool
    accept_loss: bool
    damaged: Sequence[Damage]
    kept: set[int] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)

    def do(self, act: Callable[[], object]) -> None:
        """Do it, unless this is a plan."""
        if not self.plan:
            act()

    def lose(self, damage: Damage, why: str, lost: int, falls: Sequence[str], act: Callable[[], object]) -> Mend:
        """What cannot be made again: gone where that is accepted, else kept."""
        if self.accept_loss:
            self.do(act)
            return _told(damage, "lost", f"gone: {why}", lost=lost, falls=tuple(falls))
        self.kept.add(damage.shard_id)
        return _told(damage, "kept", f"kept: {why}", lost=lost, falls=tuple(falls))

    def wait(self, damage: Damage, why: str, lost: int, falls: Sequence[str] = ()) -> Mend:
        """What can be made again, but not now: kept, whatever is accepted."""
        self.kept.add(damage.shard_id)
        return replace(_told(damage, "kept", f"kept: {why}", lost=lost, falls=tuple(falls)), waits=True)


def _told(
    damage: Damage, state: State, done: str, *, rows: int = 0, lost: int = 0, falls: tuple[str, ...] = ()
) -> Mend:
    return Mend(damage.name, damage.kind, damage.problem, state, done, rows, lost, falls)


def mend(store: Store, *, dry_run: bool = False, accept_loss: bool = False, progress: Progress = quiet) -> list[Mend]:
    """Verify a store and make again what is damaged, where it can be; `accept_loss` removes what cannot be, with all
    that it takes down, and takes a catalog that can be read as it is. `dry_run` changes nothing and says what would be
    done; it reads sources, and opens models.

    Raises BusyError while a run works on the store, CorruptionError for a damaged catalog.
    """
    # Before a lease is written: a catalog that is behind takes none.
    problem = maintenance.take_catalog(store) if accept_loss and not dry_run else None
    with nullcontext() if dry_run else leases.alone(store, "repair it"):
        if not dry_run:
            store.sweep()
        job = _Job(store, Past(store, progress), dry_run, accept_loss, maintenance.verify(store))
        values = [damage for damage in _of(job, "scores") if repair.is_attribute(store, damage.shard_id)]
        done = [Mend("catalog", "catalog", problem, "lost", "taken as it is")] if problem else []
        done += _texts(job, _of(job, "examples"))
        done += [_values(job, damage) for damage in values]
        done += [_checkpoint(job, damage) for damage in _by_ordinal(store, _of(job, "checkpoint"))]
        for number, damage in enumerate(_of(job, "features"), 1):
            done.append(_rows(job, damage))
            progress("damaged feature shards", number, len(_of(job, "features")))
        done += [_table(job, damage) for damage in _of(job, "scores") if damage not in values]
        if not dry_run and not job.kept:
            with suppress(BusyError):  # another reads the catalog: the next command that writes goes on
                resume(store, progress)  # a deletion that a damaged file had stopped; no index is built before
        done += [_recorded(job, damage) for kind in ("dataset", "selection", "catalog") for damage in _of(job, kind)]
        done += [_index(job, damage) for damage in _of(job, indexes.FOLDER)]
        done += [_export(job, damage) for damage in damaged_exports(store)]
        done += _reports(job)
        return done


def _of(job: _Job, kind: str) -> list[Damage]:
    return [damage for damage in job.damaged if damage.kind == kind]


def _texts(job: _Job, damaged: Sequence[Damage]) -> list[Mend]:
    """Shards of examples: what a damaged file still holds, then one pass over the sources for all of them."""
    store = job.store
    wanted = {damage.shard_id: repair.example_ids(store, damage.shard_id) for damage in damaged}
    held = {shard: repair.readable(store, shard) for shard in wanted}
    missing = {i for shard, ids in wanted.items() for i in ids if i not in held[shard]}
    files = sorted({file for shard in wanted for file in repair.origin_files(store, shard)})
    found, unread = remake.chats(job.past, missing, files)
    return [_shard(job, damage, wanted[damage.shard_id], held[damage.shard_id] | found, unread) for damage in damaged]


def _shard(
    job: _Job, damage: Damage, ids: Sequence[str], chats: dict[str, Messages], unread: Mapping[str, str]
) -> Mend:
    store, shard = job.store, damage.shard_id
    lost = [i for i in ids if i not in chats]
    rows = len(ids) - len(lost)
    if not lost:
        job.do(lambda: repair.restore_examples(store, shard, chats))
        return _told(damage, "mended", "read again, each row by its digest", rows=rows)
    falls = repair.falls_with_examples(store, lost, job.gone)
    away = repair.read_from(store, shard, unread) & set(lost)
    if away:
        places = dict.fromkeys(unread[file] for file in repair.origin_files(store, shard) if file in unread)
        why = (
            f"{len(away):,} of {len(ids):,} rows are in sources that cannot be read now ({_place(store, min(away))}): "
        )
        why += f"{', '.join(places)}; repair again when they are back, or `gradsift delete` "
        return job.wait(damage, f"{why}what will never be", len(lost), falls)
    why = f"{len(lost):,} of {rows + len(lost):,} rows are no longer in their sources ({_place(store, lost[0])})"
    reason = f"{len(lost):,} examples were lost with a damaged file"
    made = job.lose(damage, why, len(lost), falls, lambda: repair.restore_examples(store, shard, chats, reason))
    if made.state == "kept":
        return made
    job.gone |= set(lost)
    return replace(made, rows=rows)


def _place(store: Store, example: str) -> str:
    return f"the first: {' of '.join(filter(None, (example[:8], repair.origin(store, example))))}"


def _values(job: _Job, damage: Damage) -> Mend:
    if not repair.is_attribute(job.store, damage.shard_id):
        return _told(damage, "later", "values of examples: gone with lost texts, computed again when they are needed")
    job.do(lambda: repair.drop_attribute(job.store, damage.shard_id))
    return _told(damage, "later", "values of examples: dropped, and computed again when they are needed")


def _by_ordinal(store: Store, damaged: Sequence[Damage]) -> list[Damage]:
    """Earlier checkpoints first: later ones are trained on from them."""

    def place(damage: Damage) -> tuple[str, int]:
        known = repair.checkpoint_of(store, damage.shard_id)
        return (known[0], known[1].ordinal) if known else ("", 0)

    return sorted(damaged, key=place)


def _checkpoint(job: _Job, damage: Damage) -> Mend:
    store, shard = job.store, damage.shard_id
    known = repair.checkpoint_of(store, shard)
    if known is None or shard in job.dropped:
        return _told(damage, "lost", "gone with an earlier one of its warm-up", lost=1)
    warmup, point = known
    broken = {other.shard_id for other in _of(job, "checkpoint")} | job.kept
    falls = repair.falls_with_checkpoint(store, warmup, point.ordinal, job.gone)
    later = {other.shard_id for other in checkpoints.listed(store, warmup) if other.ordinal >= point.ordinal}
    try:
        train = remake.checkpoint(job.past, warmup, point, broken, job.gone)
        job.do(lambda: repair.restore_checkpoint(store, shard, train()))
        sure = ", if its tensors come out the same" if job.plan else ": the same tensors"
        return _told(damage, "mended", f"checkpoint {point.ordinal} trained again{sure}", rows=1)
    except Away as error:
        return job.wait(damage, f"repair again when its model is back: {error}", 1, falls)
    except Waits as error:
        return job.wait(damage, str(error), 1, falls)
    except Unlike:
        why = "trained again, its tensors are others: other hardware or libraries round otherwise"
    except CANNOT as error:
        why = str(error)
    made = job.lose(damage, why, 1, falls, lambda: repair.forget_checkpoints(store, shard))
    job.dropped |= later if made.state == "lost" else set()
    return made


def _rows(job: _Job, damage: Damage) -> Mend:
    """Feature rows, unit by unit: a kill loses one."""
    store, shard = job.store, damage.shard_id
    units = _units(job, shard)
    if not units:
        job.do(lambda: repair.drop_unused(store, shard))
        return _told(damage, "mended", "dropped: nothing refers to it")
    rows, same = 0, True
    try:
        for unit in units:
            if not unit.ids:  # all were deleted
                job.do(lambda: repair.drop_unit(store, shard, unit))
                continue
            make = _maker(job, unit)
            rows += repair.rows_of(store, unit, job.gone)
            if not job.plan:
                same &= repair.restore_unit(store, shard, unit, *make(unit.ids))
    except Away as error:
        left = _left(job, shard)
        job.do(lambda: repair.replan(store, shard))
        job.dropped.add(shard)
        why = f"{left:,} rows planned again, for `gradsift run` when the model is back: {error}"
        return _told(damage, "later", why)
    except Waits as error:
        return job.wait(damage, str(error), _left(job, shard), _rows_fall(job, shard, units))
    except CANNOT as error:
        left, falls = _left(job, shard), _rows_fall(job, shard, units)
        made = job.lose(damage, str(error), left, falls, lambda: repair.lose_rows(store, shard))
        job.dropped |= {shard} - job.kept
        return made
    how = "" if job.plan else ": the same bytes" if same else ": equal up to rounding"
    return _told(damage, "mended", f"computed again{how}", rows=rows)


def _units(job: _Job, shard: int) -> list[Unit]:
    """Units of a shard, without examples that are lost."""
    units = repair.units_of(job.store, shard)
    return [replace(unit, ids=[i for i in unit.ids if i not in job.gone]) for unit in units]


def _rows_fall(job: _Job, shard: int, units: Sequence[Unit]) -> list[str]:
    left = _left(job, shard)
    return [f"{left:,} feature rows of space {space}" for space in sorted({unit.space_id for unit in units})]


def _left(job: _Job, shard: int) -> int:
    return sum(repair.rows_of(job.store, unit, job.gone) for unit in repair.units_of(job.store, shard))


def _maker(job: _Job, unit: Unit) -> remake.MakeRows:
    """What computes a unit again. Raises Lost, also where its checkpoint is; Away; Waits where a text, or the
    checkpoint, that it is computed from is damaged and was kept."""
    points = set(repair.checkpoint_shards(job.store, unit.space_id))
    if points & job.dropped:
        raise Lost(remake.NO_CHECKPOINT)
    make = job.past.rows(unit.space_id)
    if job.kept & {*examples.shards_of(job.store, unit.ids), *points}:
        raise Waits("what they are computed from is damaged, too")
    return make


def _table(job: _Job, damage: Damage) -> Mend:
    store, shard = job.store, damage.shard_id
    selection = repair.selection_of(store, shard) if shard else repair.selection_numbered(store, int(damage.name))
    damage = replace(damage, name=damage.name if shard else "")
    if selection is None or not job.gone.isdisjoint(selection.example_ids):
        if shard:
            job.do(lambda: repair.drop_unused(store, shard))
        return _told(damage, "mended", "dropped: nothing that holds refers to it")
    falls = repair.falls_with_table(store, selection)
    try:
        choose = remake.picks(job.past, selection, job.gone)
        job.do(lambda: repair.restore_table(store, selection, choose()))
        sure = ", if it comes out the same" if job.plan else ": the same choice"
        return _told(damage, "mended", f"{selection.name} chosen again{sure}", rows=1)
    except Away as error:
        return job.wait(damage, f"repair again when its model is back: {error}", 1, falls)
    except Waits as error:
        return job.wait(damage, str(error), 1, falls)
    except Unlike:
        why = f"{selection.name} chosen again is another choice"
    except CANNOT as error:
        why = str(error)
        if job.kept - {other.shard_id for other in _of(job, "scores")}:  # what it is chosen from may be among them
            return job.wait(damage, f"chosen again when the others are mended: {why}", 1, falls)
    reason = f"its table with the {selections.in_table_alone(selection)} was damaged"
    return job.lose(damage, why, 1, falls, lambda: repair.lose_table(store, selection, reason))


def _recorded(job: _Job, damage: Damage) -> Mend:
    """What the catalog holds of itself and is no longer as recorded. A dataset or selection can be void, for the next
    run makes it again; nothing stands for the rest."""
    if damage.kind == "catalog":
        done = "kept: put a copy of the store back, or run its recipes into a new one"
        return replace(_told(damage, "kept", done, lost=1), waits=True)
    if not job.accept_loss:
        return _told(damage, "kept", "kept: void where that is accepted, and made again by the next run", lost=1)
    why = "its rows were not those that were recorded"
    job.do(lambda: repair.void(job.store, damage.kind, damage.shard_id, why))
    return _told(damage, "lost", "void; the next run makes it again", lost=1)


def _index(job: _Job, damage: Damage) -> Mend:
    """Built from the rows, which are mended by now; dropped where they are not."""
    store = job.store
    index = next((one for one in indexes.all_of(store) if one.index_id == damage.shard_id), None)
    if index is None or repair.have_rows(store, index.space_id, job.gone):
        return _told(damage, "later", f"gone with rows of lost texts; {BUILD}")
    try:
        if interrupted(store) and (job.kept or not job.plan):  # else it is finished before
            raise InputError("a deletion was interrupted, and its rows are still in files")
        shards = indexes.rows_of_shards(store, index.space_id)
        if job.kept & set(shards):
            raise InputError("rows that it is built from are damaged")
        if not set(shards) - job.dropped:
            raise InputError("its feature space has no rows any more")
        rows = sum(rows for shard, rows in shards.items() if shard not in job.dropped)
        job.do(lambda: refreshed(store, index))
        return _told(damage, "mended", "built again from its rows", rows=rows)
    except CANNOT as error:
        job.do(lambda: indexes.drop(store, [index.space_id], index.kind))
        return _told(damage, "later", f"dropped: {error}; {BUILD}")


def _export(job: _Job, damage: Damage) -> Mend:
    """Nothing is lost with an export: one that cannot be written again as it was stays as it is."""
    folder = Path(damage.name)
    if not is_mine(job.store, folder):
        where = "it is outside of the store's `exports`"
        if not has_its_rows(folder):
            return replace(_told(damage, "kept", f"kept: {where}; {ANEW}; or remove it"), waits=True)
        return _told(damage, "noted", f"left to its owner: {where}; {ANEW}")
    try:
        write = exported(job.store, folder, job.past.progress)
        job.do(write)
        return _told(damage, "mended", "written again, as it was", rows=1)
    except CANNOT as error:
        return replace(_told(damage, "kept", f"kept: {error}"), waits=True)


def _reports(job: _Job) -> list[Mend]:
    """Pages of the newest run of each name, where missing or cut, and kept ones that are cut or there in part: one that
    is gone was dropped by its owner. They have no digest: changed bytes are not seen."""
    done = []
    newest = [run for run in runs.newest_of_each(job.store) if run.summary.get("report")]
    pages = [(newest_page(job.store, run.name), run) for run in newest]
    for page, run in [*pages, *kept_pages(job.store)]:
        if is_whole(page):
            continue
        missing = [path.name for path in (page, page.with_suffix(".json")) if not path.is_file()]
        problem = f"missing: {', '.join(missing)}" if missing else "cut"
        damage = Damage(0, "report", f"reports/{page.name}", problem)
        try:
            job.do(lambda: write_report(job.store, page, run))
            done.append(_told(damage, "mended", "written again", rows=1))
        except CANNOT as error:
            done.append(_told(damage, "later", f"not written: {error}"))
    return done
