"""Writing a damaged export of a store again, as it was: by the key in its manifest, which only the very same gives."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from gradsift.datastore import runs, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.runs import Json, Recipes
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.export.about import Told, pool_words
from gradsift.pipelines.export.checkout import checkout
from gradsift.pipelines.export.export import export, job_for
from gradsift.pipelines.export.whole import MANIFEST, damaged, made_of, manifest_at
from gradsift.pipelines.progress import Progress
from gradsift.pipelines.recipe import Export
from gradsift.pipelines.runs.remake import Lost
from gradsift.pipelines.runs.told import told_of

ANEW = "`gradsift export`, or its recipe again, writes it anew"


def exported(store: Store, folder: Path, progress: Progress) -> Callable[[], object]:
    """A function that writes an export in the store's own folder again. Raises Lost, with what to do, where what it
    was is not known."""
    if MANIFEST in damaged(folder):
        raise Lost(f"its manifest no longer says what it was; remove the folder, and {ANEW}")
    if "@" in folder.name:
        return partial(checkout, store, folder.name, folder, progress)
    manifest = manifest_at(folder) or {}
    try:
        name, target, digest = made_of(manifest)
    except InputError as error:
        raise Lost(f"{error}; remove the folder, and {ANEW}") from error
    chosen = selections.standing_for(store, name, target, digest)
    if chosen is None or chosen.digest != digest:
        raise Lost("its selection is no longer in the store; remove it")
    for recipes, told in _told(store, chosen):
        for options in _options(manifest, Export.model_validate(recipes.resolved.get("export", {}))):
            if job_for(store, chosen, recipes, options, told=told).key == manifest.get("key"):
                return partial(export, store, chosen, recipes, folder, options, progress, told=told)
    raise Lost(f"it was written by another version, or with options that are not recorded; {ANEW}")


def _told(store: Store, chosen: Selection) -> Iterator[tuple[Recipes, Told]]:
    """Recipes that an export may be written by, with what its card was told: by a run, a command, a deletion."""
    for run in runs.makers(store, chosen):
        yield from ((run.recipes, told) for told in (Told(pool_words(run.result)), told_of(store, chosen), Told()))


def _options(manifest: Json, recipe: Export) -> Iterator[Export]:
    """Options that an export may have been written with: the recipe's, with what shows in its files and what a command
    may say otherwise."""
    lines = any(name.endswith(".jsonl") for name in manifest["files"])
    shown = {"format": "jsonl" if lines else "parquet", "atlas": "atlas.parquet" in manifest["files"]}
    for labels in dict.fromkeys((recipe.labels, True, False)):
        for strict in dict.fromkeys((recipe.require_licence, True)):
            yield recipe.model_copy(update={**shown, "labels": labels, "require_licence": strict})
