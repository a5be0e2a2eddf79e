"""Trainings on trial: on what a method chose, as validation trains an arm, measured on the target's `val` rows.

Each is a piece of the run's work and is recorded when it is done, so that a killed run loses one. They train as the
recipe's `validate` says, or, in a recipe without one, as its `warmup` does; the number of epochs is the asker's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import arms
from gradsift.datastore.arms import TrialResult
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import Spec, digest_ids, fingerprint
from gradsift.pipelines.methods.measures import Trial, Trials
from gradsift.pipelines.methods.portfolio import ALLOWED, most_trainings, with_encoder
from gradsift.pipelines.methods.registry import between, options_of
from gradsift.pipelines.model.chats import Chats, chats_of
from gradsift.pipelines.model.pieces import finish, let_go
from gradsift.pipelines.model.weights import outside_embeddings
from gradsift.pipelines.model.work import Order, Work
from gradsift.pipelines.recipe import Recipe, Sft, Training
from gradsift.pipelines.training.spec import SFT_VERSION, training_spec

F64 = NDArray[np.float64]
DECIMALS = 6  # of a loss: finer differences are float rounding, which must not decide who stays


@dataclass(frozen=True)
class TrialPiece:
    """One training on trial, and the rows that it is measured on."""

    name: str
    order: Order
    trial: Trial
    val: tuple[str, ...]
    rows = 1
    alone = True  # training draws from the process's generators

    def run(self, work: Work) -> None:
        """Do it and record it, unless that has been done."""
        if _recorded(work, self) is not None:
            return
        let_go(work)  # a worker's model of gradients: training has its own
        from gradsift.pipelines.model.losses import row_losses  # loads torch, which only those who train need
        from gradsift.pipelines.training.sft import trained

        chats, spec = chats_of(work), _spec(work, self)
        rows = chats.masked(self.trial.example_ids, self.trial.masks)
        model, log = trained(work, rows, trainer(work.recipe, self.trial.epochs), self.trial.seed)
        losses = row_losses(model, work.model.tokenizer, chats(self.val), work.recipe.features.batch_tokens)
        finite = bool(np.isfinite(losses).all())
        result = TrialResult(
            losses=losses.round(DECIMALS).tolist() if finite else [],
            examples=len(rows),
            label_tokens=sum(row.n_label_tokens for row in rows),
            tokens=log.tokens if log is not None else 0,
            seconds=log.seconds if log is not None else 0.0,
            diverged=not finite,
        )
        arms.save(work.store, fingerprint(spec), self.trial.name, "", self.trial.seed, spec, result)


def trainer(recipe: Recipe, epochs: int | None = None) -> Sft:
    """How arms of a recipe train: by `validate`, else by `warmup`; for so many epochs, or for its own."""
    base: Training = recipe.validate_ or recipe.warmup or Training()
    known = base.model_dump(include=set(Sft.model_fields), exclude={"preset"})
    return Sft(**known | ({} if epochs is None else {"epochs": epochs}))


def trials_spec(work: Work) -> Spec:
    """All that decides trainings on trial but what they are asked for."""
    return {**training_spec(work), "kind": "trial", "sft": SFT_VERSION, "training": trainer(work.recipe).model_dump()}


def trials(work: Work, target: Dataset) -> Trials:
    """Trainings that are measured on a target; nothing is done before they are asked for."""

    def rows() -> tuple[list[str], NDArray[np.int64]]:
        chats = chats_of(work)
        ids = chats.usable(sorted(target.example_ids))
        return ids, np.array([chat.n_label_tokens for chat in chats(ids)], np.int64)

    def losses(label: str, asked: Sequence[Trial]) -> list[F64]:
        order, val = work.order(model=True), tuple(rows()[0])
        pieces = [TrialPiece(f"trial {one.name} {one.seed}", order, one, val) for one in asked]
        _finish(work, label, pieces)
        found = [_recorded(work, piece) for piece in pieces]
        return [np.full(len(val), np.nan) if one is None or one.diverged else np.array(one.losses) for one in found]

    @cache
    def weights() -> int:
        return outside_embeddings(work.model.folder, work.recipe.model.gguf_file)

    def tokens(trial: Trial) -> int:
        return trial.epochs * _tokens(chats_of(work), trial.example_ids)

    def flops(trial: Trial) -> float:
        return flops_of(weights(), trainer(work.recipe), tokens(trial), _tokens(chats_of(work), rows()[0]))

    return Trials(rows, trainer(work.recipe).epochs, tokens, flops, losses)


def flops_of(weights: int, settings: Sft, tokens: float, measured: float) -> float:
    """What a training on so many tokens costs, with a measurement of so many: 4·N a token with an adapter, 6·N in full,
    and 2·N of a forward pass, of N weights outside the embedding (report/cost.py)."""
    return float(weights * ((6 if settings.mode == "full" else 4) * tokens + 2 * measured))


def portfolio_flops(recipe: Recipe, weights: int, tokens: float, measured: float) -> float:
    """What the trainings of `auto` cost at most for one target; 0 of a recipe that selects by another method.

    `weights` are those outside the embedding, `tokens` those of all rows that are chosen, `measured` those of the
    target's `val` rows. The estimate takes every candidate's rows to be as long as the others'.
    """
    select = recipe.selecting
    score, rule, options = select.parts() if select is not None else ("none", "random", {})
    if select is None or not (of := between(rule, options)):
        return 0.0
    settings = trainer(recipe)
    whole = flops_of(weights, settings, settings.epochs * tokens, measured)
    own = {name: default for name, (_, default) in options_of(score, rule).items()} | dict(options)
    one = flops_of(weights, settings, own["epochs"] * tokens, measured)
    count = most_trainings(with_encoder(of, select.encoder is not None))
    return float(min(own["flops"] or ALLOWED * whole, count * one))


def _tokens(chats: Chats, ids: Sequence[str]) -> int:
    return sum(len(chat.input_ids) for chat in chats(ids))


def _finish(work: Work, label: str, pieces: Sequence[TrialPiece]) -> None:
    distinct = {fingerprint(_spec(work, piece)): piece for piece in pieces}  # the same rows train once
    ended = len(distinct) - len(left := _unrecorded(work, list(distinct.values())))

    def done(_piece: TrialPiece) -> None:
        nonlocal ended
        ended += 1
        work.progress(label, min(ended, len(distinct)), len(distinct))

    finish(work, lambda: _unrecorded(work, left), done)


def _unrecorded(work: Work, pieces: Sequence[TrialPiece]) -> list[TrialPiece]:
    return [piece for piece in pieces if _recorded(work, piece) is None]


def _recorded(work: Work, piece: TrialPiece) -> TrialResult | None:
    return arms.find(work.store, fingerprint(_spec(work, piece)), TrialResult)


def _spec(work: Work, piece: TrialPiece) -> Spec:
    """All that a result depends on."""
    trial = piece.trial
    return {
        **trials_spec(work),
        "training": trainer(work.recipe, trial.epochs).model_dump(),
        "examples": digest_ids(trial.example_ids),
        "masks": fingerprint(trial.masks) if trial.masks else None,
        "seed": trial.seed,
        "val": digest_ids(piece.val),
    }
