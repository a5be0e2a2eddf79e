"""Functions about mixtures: mix, export, compare."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gradsift.api.shared import AnyPath, AnyStore, opened, section_of
from gradsift.pipelines.progress import Progress, quiet

if TYPE_CHECKING:
    from gradsift.datastore.runs import MixtureReport
    from gradsift.datastore.store import Store
    from gradsift.pipelines.export.diff import Difference
    from gradsift.pipelines.export.push import Pushed


@dataclass(frozen=True)
class Written:
    """An export: of which selection, how many examples and rows (copies counted), its digest, where it is, what was
    pushed, and of which selection another export lay there that it replaced."""

    name: str
    examples: int
    rows: int
    digest: str
    folder: str
    pushed: "Pushed | None" = None
    replaced: str | None = None


def mix(
    settings: Mapping[str, Any] | AnyPath,
    *,
    name: str | None = None,
    seed: int | None = None,
    export_to: AnyPath | None = None,
    store: AnyStore = "store",
    progress: Progress = quiet,
) -> "MixtureReport":
    """Make another mixture from what the store's last run read and computed.

    Parameters
    ----------
    settings
        The fields of a recipe's `mix`, or a YAML file with them.
    name
        Name of the mixture; default: the run's with `-mix`.
    seed
        Seed of everything random; default: the recipe's.
    export_to
        Also write it to this folder.
    store
        Folder of the store, or an open one.
    progress
        Called with the stage's name, rows done, and rows in all.

    Returns
    -------
    MixtureReport
        What was asked for and what there is, by part and source.

    Raises
    ------
    InputError
        For settings that make no sense, or that need rows which the last run did not compute.
    BusyError
        While a run works on the store.

    Example
    -------
    >>> made = gradsift.mix({"examples": 20, "temperature": 2.0}, store="store")
    >>> made.realised
    20
    """
    from gradsift.datastore.amounts import require_number

    require_number("the seed", seed)
    section = section_of(settings, "mix")
    with opened(store) as there:
        from gradsift.pipelines.runs.reselect import remix  # loads torch: not for a store that is not there

        made = remix(there, section, name=name, seed=seed, progress=progress)
        if export_to is None:
            return made
        from gradsift.datastore import runs, selections
        from gradsift.pipelines.export.export import export as write

        chosen = selections.get(there, made.name)
        path = write(there, chosen, runs.recipe_of(there, made), Path(export_to), progress=progress)
        return replace(made, export=str(path))


def export(
    name: str,
    folder: AnyPath,
    *,
    target: str | None = None,
    format: Literal["parquet", "jsonl"] | None = None,  # noqa: A002 - the name of the command's flag
    labels: bool | None = None,
    atlas: bool = False,
    require_licence: bool = False,
    push: str | None = None,
    revision: str | None = None,
    private: bool = True,
    dry_run: bool = False,
    store: AnyStore = "store",
    progress: Progress = quiet,
) -> Written:
    """Write a selection or mixture as a folder that `datasets`, TRL, axolotl and LLaMA-Factory read.

    Parameters
    ----------
    name
        Name of the selection; NAME@NUMBER for a version of it (`gradsift.log`), or NAME@DIGEST.
    folder
        Where to write it.
    target
        Its target, if the name is not enough.
    format
        Format of the data files; default: the recipe's.
    labels
        Whether to add `input_ids` and `labels`; default: the recipe's. Always there where a method prunes tokens.
    atlas
        Add atlas.parquet: x, y and neighbours for embedding-atlas.
    require_licence
        Refuse rows of unknown licence.
    push
        Also push it to this data set on the Hugging Face Hub, `owner/name`, with the token of HF_TOKEN or `hf auth
        login`: one commit of what the hub does not have yet.
    revision
        Branch to push to; default: the main one. It is made where it is not there.
    private
        A new data set is private, and one that is public is refused.
    dry_run
        Write the export and ask the hub what it has, but push nothing.
    store
        Folder of the store, or an open one.
    progress
        Called with the stage's name, rows done, and rows in all.

    Returns
    -------
    Written
        Counts, digest and folder, and in `pushed` what the hub got: `url`, `commit`, names of files that were `sent`
        and `removed`; `replaced` names what another export was of that lay there.

    Raises
    ------
    InputError
        For a name that is not there, a folder that holds anything but an export, and rows without the licence that is
        asked for; for a data set on the hub that is something else, or that the token may not write to.
    BusyError
        Where somebody else changed the data set meanwhile.
    UnavailableError
        Where the hub does not answer. The export is written by then, and the same call pushes the rest.
    StoreFullError
        When the disk is full.

    Example
    -------
    >>> newest = gradsift.log("selection", store="store")[0].report.version
    >>> written = gradsift.export(newest, "out", format="jsonl", store="store")
    """
    from gradsift.datastore import selections, versions
    from gradsift.pipelines.export.push import destination
    from gradsift.pipelines.export.push import push as send
    from gradsift.pipelines.recipe import Export

    to = destination(push, revision=revision, private=private, dry_run=dry_run)
    given = {"format": format, "labels": labels, "atlas": atlas or None,
             "require_licence": require_licence or None}  # fmt: skip
    with opened(store) as there:
        chosen = selections.get(there, name, target)
        recipes = versions.recipes_of(there, name, chosen)
        options = recipes.resolved.get("export", {}) | {k: v for k, v in given.items() if v is not None}
        from gradsift.pipelines.export.export import export as write  # loads torch: not for a wrong name
        from gradsift.pipelines.export.whole import manifest_at
        from gradsift.pipelines.runs.told import told_of

        told = told_of(there, chosen)
        before = manifest_at(Path(folder)) or {}
        path = write(there, chosen, recipes, Path(folder), Export.model_validate(options), progress, told=told)
        after = manifest_at(path) or {}
        other = before and any(before.get(name) != after.get(name) for name in ("name", "digest"))
        replaced = _as_named(there, before) if other else None
    pushed = send(path, to, progress) if to else None
    return Written(chosen.name, len(chosen.example_ids), chosen.rows, chosen.digest, str(path), pushed, replaced)


def diff(one: AnyPath, other: AnyPath, *, examples: int = 3, store: AnyStore = "store") -> "Difference":
    """Compare two selections, mixtures or pools: what left, what came, by source, cluster, length and score.

    Parameters
    ----------
    one
        A selection or mixture (NAME; NAME@NUMBER or KIND@NUMBER for a version, as in `mixture@3` and `pool@3`; or
        NAME@DIGEST), or the folder of an export.
    other
        The same for the other side.
    examples
        How many examples to show of each side's own.
    store
        Folder of the store, or an open one; not looked at where both sides are folders.

    Returns
    -------
    Difference
        Counts, tables by what the two have in common, and a few examples.

    Raises
    ------
    InputError
        For a name or version that is not there.

    Example
    -------
    >>> difference = gradsift.diff("selection@1", "pool@1", store="store")
    >>> difference.only_a
    0
    """
    from gradsift.pipelines.export.diff import diff as compare

    sides = str(one), str(other)
    if all((Path(side) / "manifest.json").is_file() for side in sides):
        return compare(None, *sides, examples)
    with opened(store) as there:
        return compare(there, *sides, examples)


def _as_named(store: "Store", manifest: Mapping[str, Any]) -> str:
    """What an export is of: its version, where the store knows that, else its name."""
    from gradsift.datastore import versions

    name, digest = str(manifest["name"]), manifest["selection"]["digest"]
    made = [one for kind in ("selection", "mixture") for one in versions.numbered(store, kind, name)]
    return next((str(one) for one in reversed(made) if one.digest == digest), name)
