"""Selections that a person made by hand: of examples that were looked at, in no order, by no method.

What showed them is recorded with them, and goes wherever they go: into later versions, manifests and cards. So it holds
nothing that a row could have said, which would be there when the row has been deleted.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gradsift.datastore import choices, examples, runs, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.identity import digest_ids
from gradsift.datastore.runs import BY_HAND, Json, SelectionReport
from gradsift.datastore.selections import NO_TARGET, Picks
from gradsift.datastore.store import Store
from gradsift.pipelines.query.map import KINDS
from gradsift.pipelines.query.shades import SHADINGS
from gradsift.pipelines.runs import forget
from gradsift.pipelines.runs.later import changed, numbers, started
from gradsift.pipelines.version import VERSION

View = Mapping[str, Sequence[str]]  # {name: values}, as a view's URL says them
NUMBERS = re.compile(r"[-+.,\de]*")  # a range, corners of a lasso
COUNTED = ("hide", "licence", "words", "where")  # of which only their number is recorded


def select_by_hand(store: Store, name: str, ids: Sequence[str], view: View) -> SelectionReport:
    """Record examples as a selection, by the order of their ids, and the run that made it. `view` says how they were
    found, of which `recorded` stays; the same examples, found in the same way, under the same name are the selection
    that there is.

    Raises InputError for a name that is none or is another method's, for no ids and for unknown ones; BusyError while
    another process deletes.
    """
    forget.finish(store, doing="save again")
    last = runs.last_run(store, computed=True)
    recipe = changed(last, {part: last.recipes.resolved.get(part) for part in ("select", "mix")}, name)
    _require_free(store, name)
    chosen = sorted(set(ids))
    sources = examples.sources_of(store, chosen)
    if not chosen:
        raise InputError("there is no row to save")
    if len(sources) < len(chosen):
        raise InputError(f"{len(chosen) - len(sources):,} of the rows are not in the store any more; look again")
    spec = {
        "version": VERSION,
        "method": BY_HAND,
        "budget": {"examples": len(chosen)},
        "pool": last.result.ingest.pool.digest,
        "ids": digest_ids(chosen),
        "drawn": recorded(store, view),
        "name": name,
    }
    with started(store, recipe, last) as (run_id, result):
        made = selections.use(store, spec)
        made = made or selections.save(store, name, NO_TARGET, spec, Picks(chosen, [None] * len(chosen)))
        counted = Counter(one.source for one in sources.values())
        report = SelectionReport(
            name, NO_TARGET, BY_HAND, made.digest, len(chosen), BY_HAND, dict(counted.most_common()),
            selection_id=made.selection_id,
        )  # fmt: skip
        runs.finish(store, run_id, replace(result, selections=[report]))
    return replace(report, version=numbers(store, run_id)[name])


def recorded(store: Store, view: View) -> Json:
    """What of a view is recorded: words of the page's own, numbers, names that the store has; of anything else, as of
    the words that were looked for, how many there were."""
    sources = set(examples.all_sources(store))
    made = {name for one in choices.choices(store) for name in (one.name, one.reference)}

    def is_plain(name: str, value: str) -> bool:
        of, colon, bounds = value.rpartition(":")
        tests = {
            "by": value in KINDS,
            "shade_by": value in SHADINGS,
            "source": value in sources,
            "selection": value in made,
            "selected_in": value in made,
            "score": colon and of in made and NUMBERS.fullmatch(bounds),
            "cluster": colon and of in made and NUMBERS.fullmatch(bounds),
        }
        return bool(tests[name] if name in tests else NUMBERS.fullmatch(value))

    kept = ("by", "shade_by", "selection", "source", "chars", "loss", "score", "cluster", "selected_in", "lasso")
    plain = {name: list(view[name]) for name in kept if name in view and all(is_plain(name, v) for v in view[name])}
    return plain | {name: len(view[name]) for name in (*kept, *COUNTED) if name in view and name not in plain}


def _require_free(store: Store, name: str) -> None:
    """Raise InputError where the name is one that a method, or a recipe, gave."""
    chosen = {one.name for one in selections.newest(store) if one.method != BY_HAND}
    recipes = {run.name for run in runs.newest_of_each(store) if not run.summary.get("base")}
    if name in chosen | recipes:
        raise InputError(f"{name!r} is the name of what a recipe or a method made; give another")
