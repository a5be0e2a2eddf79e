"""Stage: write a selection or mixture as a folder that `datasets`, TRL, axolotl and LLaMA-Factory read as it is.

    <name>/README.md               dataset card (its YAML tells `load_dataset` where the data is)
    <name>/data/train-*            messages, example_id, source, licence, rank, score, file, line, extra, copy,
                                   weight; of mixtures `part`, of cluster methods `cluster`; with labels `input_ids`,
                                   `attention_mask`, `labels`
    <name>/dataset_info.json       for LLaMA-Factory; trl.yaml and axolotl.yaml likewise; with labels
                                   trl-messages.yaml, for other models
    <name>/composition.csv         what it consists of; of a mixture, requested against realised
    <name>/atlas.parquet           on request: x, y and neighbours for embedding-atlas
    <name>/croissant.json          what the files and columns are, for programs (`croissant`)
    <name>/manifest.json           digests, lineage, counts, seed, versions, sha256 of every file, and of itself
    <name>/recipe.yaml             the recipe, with paths as its author wrote them

The folder appears by one rename: a reader sees all of it or nothing. What a killed export has finished stays beside it
in `.partial-…`, and what of it is whole is used by the next call (`export/partial.py`). Exporting the same again leaves
it as it is. What others wrote into the folder, a trainer's output say, stays there when it is exported anew
(`export/place.py`). No time, path or machine enters a file: the same mixture gives the same bytes (with the same
versions of pyarrow and gradsift, which the manifest names).
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from gradsift.datastore import inside, leases, origins, outputs, selections, tombstones
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.files import disk_errors, fsync_folder, fsync_path, make_folder
from gradsift.datastore.identity import digest_file, fingerprint
from gradsift.datastore.origins import Place
from gradsift.datastore.runs import Json, Recipes, plan_as_json
from gradsift.datastore.selections import MIXTURE, Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.export import card, partial, wayback
from gradsift.pipelines.export.about import Told
from gradsift.pipelines.export.described import (
    card_of,
    croissant_of,
    licences_of,
    sources_of,
    tokens_of,
    told_in,
    unlicensed,
)
from gradsift.pipelines.export.job import EXPORT_VERSION, OF_PLACELESS, PLACELESS, UNDESCRIBED, UNSEALED, Job
from gradsift.pipelines.export.place import settle, swap
from gradsift.pipelines.export.rows import (
    SPILL,
    Layout,
    has_objects,
    labels_for,
    layout,
    rows_in,
    spill,
    write_parts,
)
from gradsift.pipelines.export.trainers import Tokens, configs, wants_labels
from gradsift.pipelines.export.whole import damaged, manifest_at, sealed
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Encoding, Export, recorded_recipe
from gradsift.pipelines.tables import as_csv
from gradsift.pipelines.version import VERSION

NOTHING = Told()
PROGRAMS = {"gradsift": VERSION, "pyarrow": pa.__version__}  # that decide the bytes


WITHOUT_LABELS = (
    "{rows:,} chosen rows are not in the files: the template refuses them, or their labels were all cut off. "
    "`gradsift quarantine` says which."
)
NO_LABELS = (
    "no row of {name} has a label under the recipe's model: the template refuses all, or encoding.max_length cuts all "
    "answers off. Raise it, set encoding.truncation: keep_answer, or use `gradsift export --no-labels`"
)


class NoTokenizerError(InputError):
    """The model whose tokens an export holds cannot be opened."""


def export(
    store: Store,
    selection: Selection,
    recipes: Recipes,
    folder: Path,
    options: Export | None = None,
    progress: Progress = quiet,
    made_by: Mapping[str, str] = PROGRAMS,
    becomes: Path | None = None,
    *,
    as_then: bool = False,
    layout: int = EXPORT_VERSION,
    told: Told = NOTHING,
) -> Path:
    """Write the selection to `folder` and return it. Replaces an older export there; refuses anything else.

    Places and other columns of the rows are those of now, or, `as_then`, of its first export; the layout `PLACELESS`
    has none of them.

    `options` default to the recipe's, `made_by`, which the files name, to this program's version and pyarrow's.
    `told` is what runs know of it, for its card.
    `becomes` is where the caller moves the folder to, which the store notes for deletions, if not `folder`. Raises
    InputError for a folder that is not an export and for rows without the licence that is asked for, BusyError while
    another process writes the same or examples of it were deleted, StoreFullError when the disk is full.
    """
    job = job_for(store, selection, recipes, options, progress, made_by, as_then=as_then, layout=layout, told=told)
    settle(store, folder)
    old = manifest_at(folder)
    outputs.note(store, "export", becomes or folder)
    # The key knows rows alone, and the same may have been chosen from another pool.
    if old is not None and (old.get("key"), old.get("lineage")) == (job.key, job.lineage) and not damaged(folder):
        return folder
    make_folder(folder.parent)
    staging = folder.parent / f".partial-{folder.name}-{job.key[:16]}"
    with leases.held(store, f"export {job.key[:16]}") as mine, disk_errors(staging / "x"):
        if not mine:
            raise BusyError(f"another process is writing this export to {folder}; wait for it")
        if inside.has_links(staging):  # forged: no export writes one
            staging.unlink() if staging.is_symlink() else shutil.rmtree(staging)
        _refuse_deleted(job, staging)  # a deletion does not begin while the lease is held
        (staging / "data").mkdir(parents=True, exist_ok=True)
        _write(job, staging)
        _refuse_deleted(job, staging)  # unless it was lost
        if layout != PLACELESS:
            origins.note_exported(store, selection.selection_id, job.places)
        swap(store, staging, folder)
    return folder


def job_for(
    store: Store,
    selection: Selection,
    recipes: Recipes,
    options: Export | None = None,
    progress: Progress = quiet,
    made_by: Mapping[str, str] = PROGRAMS,
    *,
    as_then: bool = False,
    layout: int = EXPORT_VERSION,
    told: Told = NOTHING,
) -> Job:
    """What `export` would write, given the same; nothing is written. Its key tells two exports apart."""
    options = options or Export.model_validate(recipes.resolved.get("export", {}))
    # In the recipe's own order, whether it comes from a file or from the catalog.
    recipes = Recipes(recipes.resolved, recorded_recipe(recipes.written, "the recipe of this selection").written)
    known = selections.facts(store, selection)
    provenance = fingerprint([known.sources, known.licences])
    found: list[Place] = []
    if layout != PLACELESS:
        then = origins.exported(store, selection.selection_id) if as_then else None
        found = then or wayback.places(store, selection, recipes.resolved)
    else:
        options = options.model_copy(update={"labels": options.labels is True})  # there was no `auto`
    asked = options.model_dump(include=None if layout != PLACELESS else OF_PLACELESS)
    deciding = [selection.name, selection.digest, provenance, asked, recipes.written, made_by["pyarrow"]]
    deciding += [wayback.shown(found, options), asdict(told)] if layout != PLACELESS else []
    key = fingerprint([layout, made_by["gradsift"], *deciding])
    lineage = selections.spec_of(store, selection)
    return Job(store, selection, recipes, options, key, progress, made_by, lineage, found, layout, told)


def _refuse_deleted(job: Job, staging: Path) -> None:
    """Raise BusyError where examples of the selection were deleted since it was read; what is written goes."""
    if tombstones.known(job.store, job.selection.example_ids):
        shutil.rmtree(staging, ignore_errors=True)
        raise BusyError(f"examples of {job.selection.name} were deleted while it was exported; run this again")


def _write(job: Job, folder: Path) -> None:
    store, selection = job.store, job.selection
    plan = layout(store, selection, job.seed, bounded=job.layout > UNSEALED)
    if job.layout != PLACELESS:
        for name, column in wayback.columns(job.places, job.options).items():
            plan = replace(plan, facts=plan.facts.append_column(name, column))
    licences = licences_of(plan)
    if job.options.require_licence and None in licences:
        raise InputError(unlicensed(plan, licences[None]))
    opened = cache(lambda: _tokenizer(job.recipes))
    wanted = wants_labels(job.options, job.recipes, lambda: opened()[0])
    labels = labels_for(store, selection, wanted, opened)
    spill(store, plan, folder, job.progress)
    objects = has_objects(plan, folder)
    data = write_parts(plan, folder, job.options.format, labels, job.progress, objects=objects)
    without = selection.rows - sum(rows_in(folder / name) for name in data)
    if without == selection.rows:
        raise InputError(NO_LABELS.format(name=selection.name))
    digest = fingerprint([selection.digest, data])
    tokens = tokens_of(job, labels, tools=objects)
    described = card_of(job, plan, digest, labels)
    if without:
        described = replace(described, notes=[*described.notes, WITHOUT_LABELS.format(rows=without)])
    if job.layout != PLACELESS:
        described = told_in(job, described, tokens, folder / next(iter(data)))
    names = _write_texts(job, described, tokens, folder)
    if job.options.atlas:
        from gradsift.pipelines.export.atlas import write_atlas  # loads torch, as `open_model` does

        write_atlas(store, selection, plan.facts, folder / "atlas.parquet", job.progress)
        names.append("atlas.parquet")
    files = data | {name: digest_file(folder / name) for name in names}
    if job.layout > UNDESCRIBED:
        (folder / "croissant.json").write_text(croissant_of(job, plan, described, folder, files), "utf-8")
        files["croissant.json"] = digest_file(folder / "croissant.json")
    manifest = {
        **_facts(job, plan, digest),
        "pruned_examples": len(labels.masks) if labels else 0,
        **({"rows_without_labels": without} if without else {}),
        "mixture": None if (asked := selections.plan(store, selection)) is None else plan_as_json(asked),
        "lineage": job.lineage,
        "versions": dict(job.made_by),
        "recipe": job.recipes.written,
        "files": files,
    }
    manifest = sealed(manifest) if job.layout > UNSEALED else manifest
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
    shutil.rmtree(folder / SPILL, ignore_errors=True)
    (folder / partial.NOTES).unlink()
    for name in (*files, "manifest.json"):
        fsync_path(folder / name)
    fsync_folder(folder / "data")
    fsync_folder(folder)


def _facts(job: Job, plan: Layout, digest: str) -> Json:
    """What the manifest says of the rows."""
    selection = job.selection
    return {
        "gradsift_export": job.layout,
        "key": job.key,
        "digest": digest,
        "name": selection.name,
        "selection": {
            "digest": selection.digest,
            "method": selection.method,
            "target": selection.target,
            "examples": len(selection.example_ids),
            "rows": selection.rows,
        },
        "seed": job.seed,
        "order": "by rank" if selection.method != MIXTURE else "shuffled by seed, example id and copy",
        "weight_rule": "weight is 1 everywhere; an example that counts more stands there more often (`copy`)",
        "sources": dict(sources_of(plan).most_common()),
        "licences": {name or "unknown": count for name, count in licences_of(plan).items()},
    }


def _tokenizer(recipes: Recipes) -> tuple[Any, Encoding]:
    """The recipe's tokenizer. Raises NoTokenizerError that says how to do without."""
    try:
        return _opened(recipes)
    except InputError as error:
        raise NoTokenizerError(
            f"{error} This export holds the tokens of that model; `gradsift export --no-labels` (in a recipe `export: "
            "{labels: false}`) writes the chats alone, for a trainer that finds the assistant's tokens by itself."
        ) from error


def _opened(recipes: Recipes) -> tuple[Any, Encoding]:
    settings = recorded_recipe(recipes.resolved, "the recipe of this selection")
    from gradsift.pipelines.model.opened import open_model  # loads torch, which takes seconds that a deletion saves

    return open_model(settings.model).tokenizer, settings.encoding


def _write_texts(job: Job, described: card.Card, tokens: Tokens, folder: Path) -> list[str]:
    """Write the small files; returns their names."""
    texts = {
        "README.md": card.card(described),
        **configs(job.selection.name, job.options.format, tokens),
        "composition.csv": as_csv(described.composition),
        "recipe.yaml": yaml.safe_dump(job.recipes.written, sort_keys=False, allow_unicode=True),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return list(texts)
