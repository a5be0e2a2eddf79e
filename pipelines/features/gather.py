"""The one place that assembles what methods look at, from what a run has read and computed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.runs import LeftOut
from gradsift.datastore.store import Store
from gradsift.datastore.unusable import unusable
from gradsift.pipelines.features.encoder import encoder_pair
from gradsift.pipelines.methods.evidence import Evidence, SpacePair
from gradsift.pipelines.methods.measures import Measures
from gradsift.pipelines.methods.registry import ROWS, Needs
from gradsift.pipelines.model.lengths import lengths
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.training.loss_drop import pool_losses
from gradsift.pipelines.training.trial import trials


@dataclass(frozen=True)
class Shortlist:
    """The part of a pool that has rows at every checkpoint, where a cascade computed no others, and how many usable
    examples the pool has in all: what a fraction is of."""

    pool: Dataset
    usable: int


@dataclass(frozen=True)
class Material:
    """The datasets of a run, and the spaces of gradient rows computed for them: one pair for each checkpoint, which
    serves all targets; none where nothing needs gradients. `shortlist` is what has rows, None where all have."""

    pool: Dataset
    targets: Mapping[str, Dataset]
    tests: Mapping[str, Dataset] = field(default_factory=dict)
    pairs: tuple[SpacePair, ...] = ()
    shortlist: Shortlist | None = None


def evidence(
    work: Work, material: Material, target: str, encoder: str | None = None, *, needs: Needs = ROWS
) -> Evidence:
    """What a method looks at for a target; `encoder` is the folder of a sentence encoder, whose rows are computed where
    they are missing. After a cascade, a method that `needs` gradient rows gets the shortlist, another the whole pool
    without them. Raises InputError for an unknown target."""
    if target not in material.targets:
        raise InputError(f"there is no target {target!r}; this store has {', '.join(material.targets)}")
    pool, pairs, wanted, usable = material.pool, material.pairs, material.targets[target], None
    if material.shortlist is not None:
        if needs & ROWS:
            pool, usable = material.shortlist.pool, material.shortlist.usable
        else:
            pairs = ()
    pair = encoder_pair(work, encoder, wanted, pool)
    return Evidence(
        work.store, pool, wanted, pairs, work.recipe.seed, pair, _measures(work, wanted), work.recipe.memory, usable
    )


def pool_rows(work: Work, pool: Dataset, *pairs: SpacePair) -> Evidence:
    """What is known of a pool alone, by its rows in these spaces."""
    return Evidence(work.store, pool, pool, pairs, work.recipe.seed, memory=work.recipe.memory)


def unusable_of(store: Store, pool: Dataset, spaces: Sequence[int]) -> list[LeftOut]:
    """Members of a pool that have no row in one of the spaces, by status and source."""
    found: dict[str, Counter[str]] = {}
    for one in unusable(store, pool.dataset_id, spaces):
        found.setdefault(one.status, Counter())[one.source] += 1
    return [LeftOut(status, n.total(), dict(n.most_common())) for status, n in sorted(found.items())]


def _measures(work: Work, target: Dataset) -> Measures | None:
    if work.loaded is None:
        return None
    return Measures(lambda pool: lengths(work, pool)["n_label_tokens"], pool_losses(work, target), trials(work, target))
