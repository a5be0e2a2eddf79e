"""What is made later from a run and recorded as one of its own: its recipe, its start, its numbers. Loads no model."""

from collections.abc import Iterator
from contextlib import contextmanager

from gradsift.datastore import lives, versions
from gradsift.datastore.numbering import catch_up
from gradsift.datastore.runs import Recipes, Run, RunResult
from gradsift.datastore.store import Store
from gradsift.pipelines.recipe import Fields, Recipe, parse_recipe, renamed
from gradsift.pipelines.version import made_with


def changed(last: Run, sections: Fields, name: str, seed: int | None = None, *, trains: bool = False) -> Recipe:
    """The run's recipe with other sections `select` and `mix`, under another name and without validation, but where it
    `trains`: then that says how."""
    more = {"select": None, "mix": None, **sections, "name": name[:64], **({} if trains else {"validate": None})}
    if seed is not None:
        more["seed"] = seed
    written = {**last.recipes.written, **more}
    return parse_recipe({**renamed(last.recipes.resolved), **more}, "this selection").written_as(written)


def name_after(last: Run, suffix: str) -> str:
    """A name for what is made later from a run."""
    return f"{last.recipes.resolved['name']}-{suffix.replace('_', '-')}"


@contextmanager
def started(store: Store, recipe: Recipe, last: Run) -> Iterator[tuple[int, RunResult]]:
    """(number, result so far) of a run that uses what another computed."""
    recipes = Recipes(recipe.model_dump(mode="json", by_alias=True), recipe.written)
    begun = RunResult(
        recipe.name,
        last.result.ingest,
        base=last.name,
        rows=last.result.rows,
        cascade=last.result.cascade,
        made_with=made_with(),
    )
    with lives.started(store, recipe.name, recipes) as run_id:
        yield run_id, begun


def numbers(store: Store, run_id: int) -> dict[str, str]:
    """{name: NAME@NUMBER} of what a run chose."""
    catch_up(store)
    return {v.name: v.version for v in versions.of_run(store, run_id) if v.kind != "pool"}
