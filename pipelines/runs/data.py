"""What a run would read: its datasets, made by the run's own code in a store that is thrown away."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gradsift.datastore import tombstones
from gradsift.datastore.errors import NoStoreError
from gradsift.datastore.place import is_store
from gradsift.datastore.runs import Ingested
from gradsift.datastore.store import Store
from gradsift.pipelines.features.gather import Material
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.pool.read import read_datasets
from gradsift.pipelines.recipe import Recipe


@dataclass(frozen=True)
class Data:
    """The datasets of a run in a scratch store, what reading them gave, and the seconds that took."""

    scratch: Store
    material: Material
    ingested: Ingested
    seconds: float

    @property
    def left_out(self) -> dict[str, int]:
        """{why: rows of the pool that were read and are no part of it}."""
        pool = self.ingested.pool
        counts = {
            "left out by `where`": pool.filtered,
            "duplicates": pool.duplicates,
            "deleted before": pool.deleted,
            "rows of test sets": pool.left_out_test_rows,
        }
        for entry in pool.left_out:
            counts[entry.reason] = counts.get(entry.reason, 0) + entry.examples
        return {why: count for why, count in counts.items() if count}


@contextmanager
def opened(recipe: Recipe, root: Path) -> Iterator[Store | None]:
    """The store that a recipe would run on, None where there is none yet. Makes no folder."""
    place = recipe.place(root)
    with ExitStack() as stack:
        if not is_store(root):
            if not place.is_shared:
                yield None
                return
            place = replace(place, root=Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gradsift-"))))
        try:
            store = stack.enter_context(Store(place, create=False))
        except NoStoreError:
            yield None
            return
        yield store


@contextmanager
def read_aside(recipe: Recipe, store: Store | None) -> Iterator[Data]:
    """Read and screen what the recipe names, without examples that were deleted from the store, into a store of its own
    that is gone at the end of the block: counts, digests and refusals are those of a run. Raises what reading raises.

    Cost: that of a run's first stage, about 0.5 ms a row, and the room of the text in the temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="gradsift-") as folder, Store(Path(folder) / "scratch") as scratch:
        if store is not None:
            tombstones.copy(store, scratch)
        start = time.perf_counter()
        material, ingested = read_datasets(Work(scratch, _without_models(recipe)))
        yield Data(scratch, material, ingested, time.perf_counter() - start)


def _without_models(recipe: Recipe) -> Recipe:
    """The recipe without the part of its screening that a model is needed for."""
    dedup = recipe.dedup.model_copy(update={"semantic": None}) if recipe.dedup else None
    return recipe.model_copy(update={"dedup": dedup})
