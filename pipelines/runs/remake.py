"""Making parts of a store again from what its runs recorded: their recipes, sources, models, pools and spaces.

Nothing is written here: each function gives what the damaged file held, and `runs/repair.py` puts it in its place. What
cannot be made again is `Lost`; what could be if something outside were as it was is `Away`; what could be when
something else that is damaged is mended `Waits`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from gradsift.datastore import checkpoints, examples, features, runs, selections, warmups
from gradsift.datastore.chats import Messages
from gradsift.datastore.checkpoints import Checkpoint, CheckpointState
from gradsift.datastore.errors import CorruptionError, FeatureSpaceMismatch, GradsiftError, InputError
from gradsift.datastore.examples import Dataset, Example
from gradsift.datastore.identity import Spec, fingerprint
from gradsift.datastore.rows import FeatureBlock
from gradsift.datastore.runs import Run
from gradsift.datastore.selections import MIXTURE, Picks, Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.features.encoder import encoder_rows, encoder_spec
from gradsift.pipelines.features.extract import Extractor
from gradsift.pipelines.features.gather import Material, evidence
from gradsift.pipelines.features.space import GradientJob, make_job
from gradsift.pipelines.mix.mixture import mixture_of
from gradsift.pipelines.model.chats import usable_chats
from gradsift.pipelines.model.load import load_lora
from gradsift.pipelines.model.opened import Loaded, open_model
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.pool.sources import read_source
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Recipe, Source, Warmup, recorded_recipe
from gradsift.pipelines.runs.last import material_of
from gradsift.pipelines.select.select import picks_for, spec_for
from gradsift.pipelines.training import adopted
from gradsift.pipelines.training.loop import Report, Start, epochs, make_optimizer
from gradsift.pipelines.training.warmup import (
    of_pool,
    restore,
    sample,
    state_at,
    untrained_fingerprint,
    untrained_state,
)

ROWS_OF = {"lm", "lora", "encoding", "warmup", "features", "seed"}  # what of a recipe decides checkpoints and rows
KINDS: Sequence[Callable[[GradientJob], GradientJob]] = (lambda job: job, GradientJob.as_query, GradientJob.as_plain)
NO_CHECKPOINT = "their checkpoint is no longer in the store"
OTHERWISE = "what decides it is no longer the same (its pool, the model's files, or the version of a method)"
Rows = tuple[FeatureBlock, dict[str, str]]  # and {id: status} of those without one
MakeRows = Callable[[Sequence[str]], Rows]


class Lost(Exception):
    """Cannot be made again; says why."""


class Away(Exception):
    """Could be made again, if a model that is not there, or is another now, were as it was; says which."""


class Waits(Exception):
    """Is made from something that is damaged and stays so for now; says from what."""


class Past:
    """What the runs of a store recorded; models are opened when they are asked for."""

    def __init__(self, store: Store, progress: Progress = quiet) -> None:
        self.store, self.progress = store, progress
        self._opened: dict[str, Loaded | InputError] = {}
        self._rows: dict[int, MakeRows] = {}

    @cached_property
    def recipes(self) -> list[Recipe]:
        """Recipes of all runs, the newest first, without those that this version does not understand."""
        found = []
        for data in runs.recorded(self.store):
            try:
                found.append(recorded_recipe(data, "a recorded recipe"))
            except InputError:
                continue
        return found

    def work(self, recipe: Recipe) -> Work:
        """A recipe with its opened model, if it has one. Raises InputError where that is not there."""
        if recipe.lm is None:
            return Work(self.store, recipe, progress=self.progress)
        key = recipe.model.model_dump_json()
        if key not in self._opened:
            try:
                self._opened[key] = open_model(recipe.model)
            except InputError as error:
                self._opened[key] = error
        opened = self._opened[key]
        if isinstance(opened, InputError):
            raise opened
        return Work(self.store, recipe, opened, self.progress)

    def rows(self, space: int) -> "MakeRows":
        """A function that computes rows of a feature space again; it loads the checkpoint and the model when it is
        called first. Raises Lost, and Away."""
        if space not in self._rows:
            spec = features.space_spec(self.store, space)
            make = _encoder_rows if spec.get("kind") == "encoder" else _gradient_rows
            self._rows[space] = make(self, spec)
        return self._rows[space]

    def at_work(self, model: str) -> tuple[list[Work], str]:
        """The recipes whose model has this digest ("": any), of alike ones the newest, and why there are no more: a
        model that is not there or is another now, "" where all are."""
        found, why, seen = [], "", set[str]()
        for recipe in self.recipes:
            key = recipe.model_dump_json(include=ROWS_OF)
            if recipe.lm is None or key in seen:
                continue
            seen.add(key)
            try:
                work = self.work(recipe)
            except InputError as error:
                why = why or str(error)
                continue
            if model in ("", work.model.model_digest):
                found.append(work)
            else:
                why = why or f"the files in {work.model.folder} are of another model now"
        return found, why


def chats(past: Past, wanted: set[str], files: Sequence[str]) -> tuple[dict[str, Messages], dict[str, str]]:
    """({id: chat} of examples that are still in their sources, {file: its source} of files that cannot be read now).
    Sources are those of the recorded recipes that the `files` are in, and files that no recipe names. A row counts by
    its digest alone, wherever it stands by now; with all of them found, nothing more is read.

    A file that is not there cannot be read now, also where the rest of its folder can be: it may be on a disk that is
    not mounted."""
    found: dict[str, Messages] = {}
    unread: dict[str, str] = {}
    named = list(_sources(past.recipes))
    named += [Source(path=file) for file in files if not any(_is_in(file, source) for source in named)]
    for source in named:
        inside = [file for file in files if _is_in(file, source)]
        if not inside or len(found) == len(wanted):
            continue
        try:
            unread |= {file: file for file in inside if not source.hub and not Path(file).exists()}
            _look(source, wanted, found)
        except (GradsiftError, OSError):
            unread |= dict.fromkeys(inside, source.path or f"hub:{source.hub}")
    return found, unread


def _look(source: Source, wanted: set[str], found: dict[str, Messages]) -> None:
    for row in read_source(source.model_copy(update={"rows": None, "where": None})):
        if isinstance(row, Example) and row.example_id in wanted:
            found[row.example_id] = row.messages
            if len(found) == len(wanted):
                return


def _sources(recipes: Sequence[Recipe]) -> Iterator[Source]:
    """All sources that recipes name, each once."""
    seen: set[str] = set()
    for recipe in recipes:
        targets = [source for target in recipe.targets.values() for source in (target.val, target.test)]
        sets = recipe.decontaminate.sets.values() if recipe.decontaminate else ()
        for source in (*recipe.pool, *targets, *sets):
            if source is not None and (key := source.model_dump_json(exclude={"rows", "where"})) not in seen:
                seen.add(key)
                yield source


def _is_in(file: str, source: Source) -> bool:
    """Whether a file, as `origin` names it, is one of a source's."""
    if source.hub is not None:
        return file.startswith(f"hub:{source.hub}/")
    return file == str(Path(source.path or "")) or Path(source.path or "") in Path(file).parents


def _gradient_rows(past: Past, spec: Spec) -> MakeRows:
    wanted = fingerprint(spec)
    try:
        point = checkpoints.by_digest(past.store, spec["checkpoint"])
    except InputError:
        raise Lost(NO_CHECKPOINT) from None
    works, why = past.at_work(spec["model"])
    adapter = {} if spec["adapter"] is None else {"": np.zeros(0, np.float32)}  # a space knows whether there is one
    for work in works:
        for kind in KINDS:
            if fingerprint(kind(make_job(work, point, CheckpointState(adapter, {}, {}))).space()) == wanted:
                return _later(partial(_of_job, work, point, kind))
    if why:
        raise Away(why)
    raise Lost("no recipe of the store gives rows of their space under this version")


def _of_job(work: Work, point: Checkpoint, kind: Callable[[GradientJob], GradientJob]) -> MakeRows:
    extractor = Extractor(kind(make_job(work, point)))

    def make(ids: Sequence[str]) -> Rows:
        messages = examples.get_messages(work.store, ids)
        made = extractor.extract(ids, [extractor.encode(messages[i]) for i in ids])
        return made.block, dict(made.rejected)

    return make


def _encoder_rows(past: Past, spec: Spec) -> MakeRows:
    why = ""
    named = (folder for recipe in past.recipes for folder in _encoders(recipe.model_dump(mode="json")))
    for folder in dict.fromkeys(named):
        try:
            if encoder_spec(Path(folder)) == spec:
                return _later(partial(encoder_rows, past.store, Path(folder)))
            why = why or f"the files in {folder} are of another encoder now"
        except (InputError, OSError) as error:
            why = why or str(error)
    if why:
        raise Away(why)
    raise Lost("no recipe of the store names their encoder")


def _encoders(section: Any) -> Iterator[str]:
    """Folders of encoders that a recipe names, as plain data, in any of its sections."""
    if isinstance(section, dict):
        if isinstance(section.get("encoder"), str):
            yield section["encoder"]
        section = list(section.values())
    if isinstance(section, list):
        for inner in section:
            yield from _encoders(inner)


def _later(make: Callable[[], MakeRows]) -> MakeRows:
    """The function that `make` gives, made when it is called first."""
    made: list[MakeRows] = []

    def call(ids: Sequence[str]) -> Rows:
        if not made:
            made.append(make())
        return made[0](ids)

    return call


def checkpoint(
    past: Past, warmup: str, point: Checkpoint, damaged: set[int], gone: AbstractSet[str] = frozenset()
) -> Callable[[], CheckpointState]:
    """A function that trains a checkpoint again, from the last one before it whose shard is not `damaged`, with the
    examples that are `gone` as if they had left the store. The caller compares what comes out. Raises Lost, Away, and
    Waits where a text that it was trained on is damaged."""
    works, why = past.at_work("")
    for work in works:
        settings = work.recipe.warmup
        if settings is None:
            if untrained_fingerprint(work) == warmup:
                return partial(untrained_state, work)
            continue
        if settings.from_:
            same = next((one for one in adopted.read(work.recipe, work.model) if one.digest == point.digest), None)
            if same is not None:
                return partial(_same, same.state)
            continue
        runs_of = (of_pool(work, settings, pool.digest, pool.rows) for pool in warmups.pools(past.store))
        run = next((run for run in runs_of if run.fingerprint == warmup), None)
        if run is not None:
            pool = warmups.whole_pool_of(past.store, run)
            if pool is None or not gone.isdisjoint(pool.example_ids):
                raise Lost("examples of the pool that it was trained on have left the store")
            return _training(work, settings, pool, warmup, point, damaged)
    if why:
        raise Away(why)
    raise Lost("no recipe of the store, and none of its pools that are left, gives this warm-up under this version")


def _same(state: CheckpointState) -> CheckpointState:
    return state


def _training(
    work: Work, settings: Warmup, pool: Dataset, warmup: str, point: Checkpoint, damaged: set[int]
) -> Callable[[], CheckpointState]:
    ids = sample(work, settings, pool)
    if damaged & set(examples.shards_of(work.store, ids)):
        raise Waits("texts that it was trained on are damaged, too")

    def train() -> CheckpointState:
        before = [p for p in checkpoints.listed(work.store, warmup) if p.ordinal < point.ordinal]
        before = [p for p in before if p.shard_id not in damaged]
        _, encoded = usable_chats(work, ids)
        recipe = work.recipe
        model = load_lora(work.model, recipe.model, recipe.lora, recipe.seed)
        start = Start(make_optimizer(model, settings), before[-1].ordinal + 1 if before else 0)
        if before:
            restore(model, start.optimizer, checkpoints.load(work.store, before[-1]), before[-1].step)
        report = Report(f"checkpoint {point.ordinal} again", work.progress)
        for end in epochs(model, work.model.tokenizer, encoded, settings, recipe.seed, report, start):
            if end.epoch == point.ordinal:
                return state_at(end)
        raise Lost("its warm-up has fewer epochs")

    return train


def picks(past: Past, selection: Selection, gone: AbstractSet[str] = frozenset()) -> Callable[[], Picks]:
    """A function that chooses a selection or mixture again, as a run that made it did, and raises Lost where that is
    not possible any more, Away where its model or encoder is not what it was, Waits where rows that it is chosen by
    are planned. Raises Lost where no run made it, and where examples that are `gone` were in all that it was chosen
    from."""
    made_by = list(runs.makers(past.store, selection))
    if not made_by:
        raise Lost("no finished run made it")
    if gone and not any(_is_whole(past, run, gone) for run in made_by):
        raise Lost(OTHERWISE)
    return partial(_choose, past, made_by, selection)


def _choose(past: Past, made_by: Sequence[Run], selection: Selection) -> Picks:
    spec_then = selections.spec_of(past.store, selection)
    wanted = _without_provenance(spec_then)
    why = away = ""
    for run in made_by:
        try:
            for spec, make in _choices(past, run, selection):
                if _without_provenance(spec) == wanted:
                    return make()
        except (InputError, CorruptionError, FeatureSpaceMismatch) as error:
            why = why or str(error)
        away = away or _away(past, run, spec_then)
    if away:
        raise Away(away)
    if features.planned_in(past.store, json.dumps(spec_then)):
        raise Waits("rows that it is chosen by are planned: `gradsift run` computes them")
    raise Lost(why or OTHERWISE)


def _is_whole(past: Past, run: Run, gone: AbstractSet[str]) -> bool:
    material = material_of(past.store, run)
    used = (material.pool, *material.targets.values())
    return all(gone.isdisjoint(dataset.example_ids) for dataset in used)


def _away(past: Past, run: Run, spec: Spec) -> str:
    """Which model or encoder that a run's choice was made with is not there or is another now; "" where none is."""
    recipe = recorded_recipe(run.recipes.resolved, "the recipe of its run")
    folders = list(dict.fromkeys(_encoders(recipe.model_dump(mode="json"))))
    try:
        encoders = {fingerprint(encoder_spec(Path(folder))) for folder in folders}
        model = None if recipe.lm is None else past.work(recipe).model
    except (InputError, OSError) as error:
        return str(error)
    if spec.get("encoder") and spec["encoder"] not in encoders:
        return f"the files in {' and '.join(folders)} are of another encoder now"
    if model is None:
        return ""
    then = {features.space_spec(past.store, row.space_id).get("model") for row in run.result.rows}
    return f"the files in {model.folder} are of another model now" if then - {None, model.model_digest} else ""


def _choices(past: Past, run: Run, selection: Selection) -> Iterator[tuple[Spec, Callable[[], Picks]]]:
    """What a run may have chosen: of all its checkpoints, or of one alone."""
    recipe = recorded_recipe(run.recipes.resolved, "the recipe of its run")
    try:
        work = past.work(recipe)
    except InputError:  # its rows may say all that is needed of the model
        work = Work(past.store, recipe, progress=past.progress)
    whole = material_of(past.store, run)
    alone = [Material(whole.pool, whole.targets, pairs=(pair,)) for pair in whole.pairs] if len(whole.pairs) > 1 else []
    for material in (whole, *alone):
        if selection.target == MIXTURE:
            yield mixture_of(work, material)
        else:
            e = evidence(work, material, selection.target, recipe.select.encoder, needs=recipe.select.needs)
            yield spec_for(work, e, selection.target), partial(picks_for, work, e, selection.target)


def _without_provenance(spec: Spec) -> Spec:
    """Sources may have other names since. What is chosen is compared anyway."""
    return {key: value for key, value in spec.items() if key != "provenance"}
