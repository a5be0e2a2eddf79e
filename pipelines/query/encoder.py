"""A sentence encoder's rows as a space (`features/encoder.py`): mean-pooled states of the folder that the last run's
recipe names, stored as float16 in a feature space of their own.

Of a stored example the question is the stored row, and nothing is loaded; of a text it is computed by the encoder in
that folder, which must be the one that made the rows.
"""

from collections.abc import Sequence
from pathlib import Path

from gradsift.datastore import features
from gradsift.datastore.chats import Messages, text
from gradsift.datastore.errors import FeatureSpaceMismatch, InputError
from gradsift.datastore.identity import fingerprint
from gradsift.datastore.runs import Run, last_run
from gradsift.datastore.store import Store
from gradsift.pipelines.query.models import model_for
from gradsift.pipelines.query.stored import F32, StoredRows

NONE = (
    "the store's last run has no rows of a sentence encoder; a recipe computes them for `select.encoder: FOLDER`, or "
    "for `dedup.semantic.encoder`"
)


def open_encoder(store: Store, *, everything: bool = False, by_model: bool = True) -> StoredRows:
    """The encoder rows of the store's last run. Raises InputError where it has none."""
    last = last_run(store)
    pool = last.result.ingest.pool.used_dataset_id
    space = _space(store, last, pool)

    def compute(chats: Sequence[Messages]) -> F32:
        if not by_model:
            raise InputError("the row of a text takes the encoder, and none is loaded here; ask with a stored example")
        return _computed(store, space, _folder(last), chats)

    return StoredRows(store, "encoder", "mean-pooled states", space, (), None if everything else pool, None, compute)


def _space(store: Store, last: Run, pool: int | None) -> int:
    """The encoder's space that has rows of the pool: of several, that of the folder in the run's recipe."""
    spaces = [space for space in features.spaces_of(store, "encoder") if features.some_with_rows(store, space, pool, 1)]
    if len(spaces) > 1:
        from gradsift.pipelines.features.encoder import encoder_spec

        wanted = fingerprint(encoder_spec(_folder(last)))
        spaces = [space for space in spaces if features.space_fingerprint(store, space) == wanted]
    if not spaces:
        raise InputError(NONE)
    return spaces[0]


def _folder(last: Run) -> Path:
    """The encoder's folder, as the run's recipe names it. Raises InputError where it names none."""
    from gradsift.pipelines.recipe import recorded_recipe

    recipe = recorded_recipe(last.recipes.resolved, "the recipe of the store's last run")
    named = [
        recipe.selecting.encoder if recipe.selecting else None,
        recipe.dedup.semantic.encoder if recipe.dedup and recipe.dedup.semantic else None,
        recipe.validate_.encoder if recipe.validate_ else None,
    ]
    folder = next((name for name in named if name), None)
    if folder is None:
        raise InputError(NONE)
    return Path(folder)


def _computed(store: Store, space: int, folder: Path, chats: Sequence[Messages]) -> F32:
    from gradsift.pipelines.features.encoder import Rows, encoder_spec, text_rows

    def load() -> Rows:
        if fingerprint(encoder_spec(folder)) != features.space_fingerprint(store, space):
            raise FeatureSpaceMismatch(
                f"the encoder in {folder} is not the one that made this store's rows. Run the recipe again, or put the "
                "old files back."
            )
        return text_rows(folder)

    names = [str(number) for number in range(1, len(chats) + 1)]
    with model_for(store, ("encoder", space), load) as rows:
        block, rejected = rows(names, [text(chat) for chat in chats])
    if rejected:
        raise InputError(f"the encoder gives chat {next(iter(rejected))} of the questions no finite row; leave it out")
    return block.unit()
