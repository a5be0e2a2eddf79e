"""Stage: the short runs that a mixing law is fitted on (scorers/mixing_law.py), each recorded when done.

K sources give 4·K + 1 runs: equal rows, and one source scaled by 1/3, 1/2, 2 or 3. Each trains the recipe's adapter
from its start and measures the mean token loss of every source's held-out rows. Tokens are label tokens, in millions.
The law's weights are shares of tokens; for a budget in rows they are divided by each source's mean length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import arms, examples
from gradsift.datastore.arms import LawRun
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import digest_ids, fingerprint
from gradsift.pipelines.model.chats import usable_chats
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.lengths import lengths
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.progress import quiet
from gradsift.pipelines.recipe import Part, ScalingLaw, Training
from gradsift.pipelines.training.spec import training_spec
from gradsift.scorers import mixing_law

F64 = NDArray[np.float64]
MILLION = 1e6


@dataclass(frozen=True)
class _SourceRows:
    """Encoded rows of one source: to measure on, and to train on in the order they are used."""

    held_out: list[Encoded]
    train: list[Encoded]
    mean_length: float


def held_out(work: Work, part: Part, pool: Dataset) -> NDArray[np.int64]:
    """Positions in the pool of the rows that the law measures on."""
    place = {i: k for k, i in enumerate(pool.example_ids)}
    draws = _draws(work, part, pool)
    count = part.scaling_law.held_out
    if short := [name for name, ids in draws.items() if len(ids) <= count]:
        raise InputError(
            f"mix, part {part.name!r}: source {short[0]!r} has {len(draws[short[0]])} rows, of which {count} would be "
            "held out for the scaling law. Lower `scaling_law.held_out`, or name other `sources`."
        )
    return np.array(sorted(place[i] for ids in draws.values() for i in ids[: part.scaling_law.held_out]), np.int64)


def _draws(work: Work, part: Part, pool: Dataset) -> dict[str, list[str]]:
    """{source: ids in a seeded order}."""
    by_source: dict[str, list[str]] = {}
    for name, source in zip(pool.example_ids, examples.source_column(work.store, pool), strict=True):
        if part.sources is None or source in part.sources:
            by_source.setdefault(source, []).append(name)
    rng = np.random.default_rng([work.recipe.seed, 2])
    return {source: [ids[k] for k in rng.permutation(len(ids))] for source, ids in sorted(by_source.items())}


def law_weights(work: Work, part: Part, pool: Dataset, names: Sequence[str], budget: int) -> F64:
    """[K] weights of the named sources for a part of `budget` rows (or tokens, where the mixture counts tokens).

    Raises InputError for a single source or one with too few usable rows.
    """
    settings = part.scaling_law
    if len(names) < 2:
        raise InputError(
            f"mix, part {part.name!r}: a scaling law weighs at least two sources, this part has {len(names)}"
        )
    rows = _rows(work, part, pool, names)
    designs = mixing_law.designs(len(names), settings.rows_each)
    losses, tokens = [], []
    for number, design in enumerate(designs, 1):
        loss, spent = _run(work, settings, rows, names, design)
        losses.append(loss)
        tokens.append(spent)
        work.progress("runs for the mixing law", number, len(designs))
    millions = np.array(tokens) / MILLION
    of_others = millions.sum(axis=1, keepdims=True) - millions
    law = mixing_law.fit(millions, of_others, np.array(losses))
    mean_lengths = np.array([rows[n].mean_length for n in names])
    mix = work.recipe.mix
    in_rows = mix is not None and not (mix.tokens or mix.label_tokens)
    weights = mixing_law.best_weights(law, budget * (float(mean_lengths.mean()) if in_rows else 1.0) / MILLION)
    weights = weights / mean_lengths if in_rows else weights
    return np.asarray(weights / weights.sum(), np.float64)


def _rows(work: Work, part: Part, pool: Dataset, names: Sequence[str]) -> dict[str, _SourceRows]:
    settings = part.scaling_law
    most = max(round(settings.rows_each * scale) for scale in mixing_law.SCALES)
    counted = dict(zip(pool.example_ids, lengths(work, pool)["n_label_tokens"].tolist(), strict=True))
    draws = _draws(work, part, pool)
    by_source = {}
    for name in names:
        held = [i for i in draws[name][: settings.held_out] if counted[i]]
        usable = [i for i in draws[name][settings.held_out :] if counted[i]][:most]
        if not held or len(usable) < most:
            raise InputError(
                f"mix, part {part.name!r}: the law's runs need {most} usable rows of source {name!r} beside "
                f"{settings.held_out} to measure on; it has {len(usable)}. Lower `scaling_law.rows_each`, or name "
                "other `sources`."
            )
        _, measured = usable_chats(work, held)
        _, trained = usable_chats(work, usable)
        all_lengths = [counted[i] for i in draws[name] if counted[i]]
        by_source[name] = _SourceRows(measured, trained, float(np.mean(all_lengths)))
    return by_source


def _run(
    work: Work, settings: ScalingLaw, rows: dict[str, _SourceRows], names: Sequence[str], design: Sequence[int]
) -> tuple[list[float], list[int]]:
    """([K] losses, [K] label tokens trained on) of one design, from the store if it has been run."""
    recipe, loaded = work.recipe, work.model
    chosen = [rows[name].train[:count] for name, count in zip(names, design, strict=True)]
    training = Training(**settings.model_dump(include=set(Training.model_fields)))
    tokens = [sum(row.n_label_tokens for row in part) * training.epochs for part in chosen]
    spec = {
        **training_spec(work),
        "kind": "mixing_law",
        "training": training.model_dump(),
        "seed": recipe.seed,
        "train": [digest_ids(str(row.input_ids) for row in part) for part in chosen],
        "held_out": [digest_ids(str(row.input_ids) for row in rows[name].held_out) for name in names],
    }
    result = arms.find(work.store, fingerprint(spec), LawRun)
    if result is None:
        # They load torch, which takes seconds, and which no other mixture needs.
        from gradsift.pipelines.model.load import load_lora
        from gradsift.pipelines.training.loop import Report, train

        model = load_lora(loaded, recipe.model, recipe.lora, recipe.seed)
        report = Report("a run for the mixing law", quiet)
        train(model, loaded.tokenizer, [row for part in chosen for row in part], training, recipe.seed, report)
        losses = [_token_loss(work, model, rows[name].held_out) for name in names]
        result = LawRun(losses, list(names), sum(design))
        label = "law " + " ".join(str(count) for count in design)
        arms.save(work.store, fingerprint(spec), label, "", recipe.seed, spec, result)
    return list(result.losses), tokens


def _token_loss(work: Work, model: Any, rows: Sequence[Encoded]) -> float:
    from gradsift.pipelines.model.losses import row_losses, token_mean

    losses = row_losses(model, work.model.tokenizer, rows, work.recipe.features.batch_tokens)
    return token_mean(losses, rows)
