"""Lineage: the way of a row, back to the files that it was read from and forward to all that was made of it.

A row is asked for by its id, by a line of a file that was read, or by a row of an export; a file by its path. What is
told of a row is what the store recorded. Which trainings of a validation saw it is told of those whose rows are a
selection, a mixture or the whole pool: these are known by the digest of their rows. Others draw rows of their own.

Cost: a row's, a pass over the chosen rows, two columns of each table of scores, and the ids of each export that it is
in. A file's, some passes over the places in the catalog.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np

from gradsift.datastore import quarantine, runs, selections, tombstones, ways
from gradsift.datastore.errors import InputError
from gradsift.datastore.quarantine import Asked, Entry
from gradsift.datastore.selections import MIXTURE
from gradsift.datastore.store import Store
from gradsift.datastore.ways import Choice, Member, Scored, Taken, Training
from gradsift.pipelines.export.rows import layout
from gradsift.pipelines.query.exported import InExport, exports_with, folder_of, id_of_row
from gradsift.pipelines.query.row import Origin, Twin, row
from gradsift.pipelines.runs.copies import folders
from gradsift.pipelines.tables import first_turn

AT_ROW = re.compile(r"(?P<file>.+):(?P<row>\d+)", re.S)
ID = re.compile(r"[0-9a-f]{1,32}")
EXCERPT_CHARS = 160
MOST_FILES = 20
LEAST = 8  # characters of the id of a deleted example


@dataclass(frozen=True)
class Pass:
    """What became of a row in the model's pass at one checkpoint, and its loss there."""

    role: str
    checkpoint: int
    transform: str
    status: str
    loss: float | None


@dataclass(frozen=True)
class InMixture:
    """Rows of a mixture, in the order in which an export has them, that are an example: from 1, before an export with
    labels leaves out rows without any."""

    reference: str
    rows: Sequence[int]


@dataclass(frozen=True)
class Trained:
    """Trainings of one arm that saw a row, at one learning rate: their seeds, and mean test losses by target, over the
    seeds that did not diverge. `because` is the selection or pool whose rows they trained on."""

    arm: str
    because: str
    lr: float | None
    seeds: Sequence[int]
    losses: Mapping[str, float]


@dataclass(frozen=True)
class Lineage:
    """The way of an example. `datasets` are the versions of pools, targets and test sets that have it, `choices` the
    selections and mixtures that hold it (void ones too), `scores` what methods said of it, chosen or not; `arms_untold`
    are arms of which nobody knows whether they trained on it."""

    example_id: str
    source: str
    licence: str | None
    user: str
    assistant: str
    places: Sequence[Origin]
    datasets: Sequence[Member]
    marks: Sequence[Twin]
    passes: Sequence[Pass]
    warmups: Sequence[str]
    scores: Sequence[Scored]
    choices: Sequence[Choice]
    order: Sequence[InMixture]
    exports: Sequence[InExport]
    arms: Sequence[Trained]
    arms_untold: Sequence[str]


@dataclass(frozen=True)
class Deleted:
    """An example that was deleted: nothing else is known of it."""

    example_id: str


@dataclass(frozen=True)
class FileRow:
    """A row of a file: its line, the example that it became (empty where it was refused), and what became of that."""

    line: int
    example_id: str
    outcome: str


@dataclass(frozen=True)
class FileLineage:
    """What became of the rows of a file: `rows` became `examples`, others were `refused`, by reason; of the examples
    the newest run `left_out` some, by reason, and selections and mixtures hold some. `lines` are the rows one by one,
    where they were asked for. Rows that a source's `where` or its sample left out are not in the store: the run counted
    them."""

    file: str
    rows: int
    examples: int
    refused: Mapping[str, int]
    left_out: Mapping[str, int]
    taken: Sequence[Taken]
    lines: Sequence[FileRow] = ()


@dataclass(frozen=True)
class Traced:
    """What was asked for: examples, examples that were deleted, refused rows, or files."""

    examples: Sequence[Lineage] = ()
    deleted: Sequence[Deleted] = ()
    refused: Sequence[Entry] = ()
    files: Sequence[FileLineage] = field(default_factory=tuple)


def trace(store: Store, reference: str, *, rows: bool = False) -> Traced:
    """The lineage of what a reference names: an example by its id or the start of it; FILE:LINE, a line of a file that
    was read, or a row of an export (FOLDER:ROW, or a file of its rows); FILE, all rows of a file (its path, or the end
    of it), with `rows` one by one.

    Raises InputError where it names nothing, saying what there is.
    """
    if ID.fullmatch(reference):
        known = ways.starting_with(store, reference, 2)
        if len(known) > 1:
            raise InputError(f"more than one example has an id starting with {reference!r}; give more of it")
        if known:
            return Traced(examples=[lineage(store, known[0])])
        gone = tombstones.matching(store, reference) if len(reference) >= LEAST else []
        if gone:
            return Traced(deleted=[Deleted(name) for name in gone])
    at_row = AT_ROW.fullmatch(reference)
    if at_row is not None:
        found = _at_row(store, at_row["file"], int(at_row["row"]))
        if found is not None:
            return found
    files = ways.files_named(store, reference)
    if not files:
        raise InputError(f"{reference!r} names nothing in {store.root}: {_what_there_is(store, reference)}")
    return Traced(files=[of_file(store, file, rows=rows) for file in files[:MOST_FILES]])


def _what_there_is(store: Store, reference: str) -> str:
    if ID.fullmatch(reference):
        return "no example has an id that starts so"
    if folder_of(Path(reference)) is not None:
        return f"it is an export; {reference}:1 is its first row"
    known = ways.some_files(store, MOST_FILES)
    exports = [str(folder) for folder in folders(store) if folder_of(folder) is not None][:MOST_FILES]
    return (
        f"no file that was read is called so, and no export stands there; rows were read from "
        f"{', '.join(known) or 'no file'}, exports on this host are {', '.join(exports) or 'none'}; or give an id"
    )


def _at_row(store: Store, name: str, number: int) -> Traced | None:
    """What stands in a row of an export, or in a line of a file that was read; None where it is neither."""
    path = Path(name)
    if folder_of(path) is not None:
        return trace(store, id_of_row(path, number))
    files = ways.files_named(store, name)
    if not files:
        return None
    ids = [found for file in files for found in ways.at_line(store, file, number)]
    asked = [entry for file in files for entry in quarantine.entries(store, Asked(file=file))]
    refused = [entry for entry in asked if entry.line == number]
    if not ids and not refused:
        raise InputError(
            f"line {number} of {', '.join(files)} is no row of the store: there is none, a source's `where` or `rows` "
            "left it out, or the file has changed since it was read"
        )
    return Traced(examples=[lineage(store, found) for found in dict.fromkeys(ids)], refused=refused)


def lineage(store: Store, example: str) -> Lineage:
    """The way of one example, by its whole id. Raises InputError for an unknown one."""
    seen = row(store, example)
    choices = ways.choices(store, example)
    datasets = ways.members(store, example)
    arms, untold = _arms(store, choices, datasets)
    return Lineage(
        example,
        seen.source,
        seen.licence,
        first_turn(seen.messages, "user", EXCERPT_CHARS),
        first_turn(seen.messages, "assistant", EXCERPT_CHARS),
        seen.origins,
        datasets,
        seen.twins,
        [
            Pass(one.role, one.checkpoint, one.transform, one.signals.status, one.signals.values.get("loss"))
            for one in seen.passes
        ],
        ways.warmups(store, example),
        ways.scored(store, example),
        choices,
        [_in_order(store, choice) for choice in choices if choice.kind == MIXTURE and choice.void is None],
        exports_with(store, example, {choice.digest for choice in choices}),
        arms,
        untold,
    )


def _in_order(store: Store, choice: Choice) -> InMixture:
    """Where an export of a mixture has the example."""
    selection = selections.by_number(store, choice.selection_id)
    try:
        seed = int(runs.recipe_of(store, selection).resolved.get("seed", 0))
    except InputError:
        return InMixture(choice.reference, ())  # no run that is known made it
    plan = layout(store, selection, seed)
    return InMixture(choice.reference, (np.flatnonzero(plan.item == choice.rank) + 1).tolist())


def _arms(store: Store, choices: Sequence[Choice], datasets: Sequence[Member]) -> tuple[list[Trained], list[str]]:
    """Trainings that saw an example of these, and names of arms of which that is not known."""
    recorded = ways.trainings(store)
    if not recorded:
        return [], []
    because: dict[str, str] = {}
    for member in datasets:
        if member.role == "pool":
            because |= dict.fromkeys(ways.digests_of_members(store, member.dataset_id), f"pool {member.name}")
    for choice in choices:
        because |= dict.fromkeys(ways.digests_of_rows(store, choice.selection_id), choice.reference)
    of: dict[tuple[str, str, float | None], list[Training]] = {}
    for training in recorded:
        if training.rows in because:
            of.setdefault((training.arm, because[training.rows], training.lr), []).append(training)
    others = [one for one in recorded if one.examples and one.rows not in because]
    told = set[str]()
    for number in ways.selections(store) if others else ():  # rows of another selection did not have the example
        told |= ways.digests_of_rows(store, number)
    untold = {one.arm for one in others if one.rows not in told}
    return [_trained(key, trainings) for key, trainings in of.items()], sorted(untold)


def _trained(key: tuple[str, str, float | None], trainings: Sequence[Training]) -> Trained:
    arm, because, lr = key
    tests = sorted({name for training in trainings for name in training.losses})
    losses = {name: fmean(one.losses[name] for one in trainings if name in one.losses) for name in tests}
    return Trained(arm, because, lr, sorted({one.seed for one in trainings}), losses)


def of_file(store: Store, file: str, *, rows: bool = False) -> FileLineage:
    """What became of the rows of a file, by its whole path."""
    lines = ways.lines_of(store, file)
    refused = {entry.line: entry for entry in quarantine.entries(store, Asked(file=file)) if entry.file == file}
    left_out = ways.left_out(store, file)
    told: list[FileRow] = []
    if rows:
        holders = ways.holders(store, file)
        told = [FileRow(line, name, _outcome(name, left_out, holders)) for line, name in lines]
        told += [FileRow(line, "", f"refused: {entry.reason}") for line, entry in refused.items()]
    return FileLineage(
        file,
        len({line for line, _ in lines}),
        len({name for _, name in lines}),
        dict(Counter(entry.reason for entry in refused.values()).most_common()),
        dict(Counter(left_out.values()).most_common()),
        ways.taken(store, file),
        sorted(told, key=lambda one: (one.line, one.example_id)),
    )


def _outcome(example: str, left_out: Mapping[str, str], holders: Mapping[str, Sequence[str]]) -> str:
    chosen = f"in {', '.join(holders[example])}" if example in holders else "not chosen"
    return f"left out: {left_out[example]}" if example in left_out and example not in holders else chosen
