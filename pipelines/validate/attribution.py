"""Do scores track the truth? Small experiments on a pool's rows, one harness for our scores and reference scores.

- **One step**: from a checkpoint, one optimizer step on one example, and the change of the target's mean loss, against
  the change that the stored row predicts (−lr·⟨direction of the example, mean gradient of the target⟩).
- **LDS** (linear datamodeling score, TRAK §2; Park et al. 2023): R random halves of a training set, a model trained on
  each, the rank correlation over halves of each target row's loss with the sum of its scores in the half.
- **Removal** (QLD): the loss of the target after training without the top fraction by score, against removing as many
  at random. What matters to the target should hurt when it goes.

Legend: N examples, V target rows, R trainings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradsift.datastore import checkpoints, features
from gradsift.datastore.checkpoints import Checkpoint
from gradsift.datastore.errors import InputError
from gradsift.pipelines.methods.evidence import Evidence, SpacePair
from gradsift.pipelines.methods.registry import Options
from gradsift.pipelines.methods.registry import scores as registered
from gradsift.pipelines.model.batches import collate, pad_id
from gradsift.pipelines.model.chats import Chats, usable_chats
from gradsift.pipelines.model.devices import best_device
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.head import example_losses
from gradsift.pipelines.model.load import load_lora, lora_parameters, set_adapter
from gradsift.pipelines.model.losses import row_losses
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Sft, Warmup
from gradsift.pipelines.training.loop import make_optimizer
from gradsift.pipelines.training.sft import fit
from gradsift.pipelines.training.warmup import restore
from gradsift.scorers import lexical, statistics
from gradsift.scorers.rows import unit_rows

F64 = NDArray[np.float64]
Train = Callable[[Sequence[int]], F64]


@dataclass(frozen=True)
class OneStep:
    """[n] predicted and actual changes of the target's mean loss, their correlations, and the share of equal signs."""

    predicted: list[float]
    actual: list[float]
    pearson: float
    spearman: float
    same_sign: float


def one_step(work: Work, e: Evidence, count: int, lr: float = 1e-4, checkpoint: int = -1) -> OneStep:
    """The one-step truth of `count` examples drawn from the pool by the evidence's seed.

    Cost: count·(one step and a forward pass over the target). Raises InputError without a warm-up.
    """
    recipe = work.recipe
    if recipe.warmup is None:
        raise InputError("the one-step test takes an optimizer step from a warm-up's checkpoint; this recipe has none")
    pair = e.pairs[checkpoint]
    point = checkpoint_of(work, pair)
    ids = [e.ids[k] for k in np.sort(np.random.default_rng(e.seed).permutation(len(e.ids))[:count])]
    rows = features.read_all(work.store, pair.train, ids)
    query = features.read_all(work.store, pair.query, sorted(e.target.example_ids))
    mean = query.raw().mean(axis=0)
    predicted = np.asarray(-lr * rows.raw() @ mean, np.float64)
    _, target = usable_chats(work, sorted(e.target.example_ids))
    _, chats = usable_chats(work, ids)
    model = load_lora(work.model, recipe.model, recipe.lora, recipe.seed)
    state = checkpoints.load(work.store, point)

    def loss_after(chat: Encoded | None) -> float:
        optimizer = make_optimizer(model, recipe.warmup or Warmup())
        restore(model, optimizer, state, point.step)
        if chat is not None:
            _step_on(work, model, optimizer, chat, lr)
        return float(np.mean(row_losses(model, work.model.tokenizer, target, recipe.features.batch_tokens)))

    before = loss_after(None)
    actual = np.array([loss_after(chat) - before for chat in chats])
    by_rank = float(np.corrcoef(statistics.ranks(predicted), statistics.ranks(actual))[0, 1])
    same = float((np.sign(predicted) == np.sign(actual)).mean())
    pearson = float(np.corrcoef(predicted, actual)[0, 1])
    return OneStep(predicted.tolist(), actual.tolist(), pearson, by_rank, same)


def checkpoint_of(work: Work, pair: SpacePair) -> Checkpoint:
    """The checkpoint that a pair of spaces is of."""
    return checkpoints.by_digest(work.store, features.space_spec(work.store, pair.train)["checkpoint"])


def _step_on(work: Work, model: Any, optimizer: torch.optim.AdamW, chat: Encoded, lr: float) -> None:
    """One step on one chat at a learning rate, without decay."""
    _backward(work, model, chat)
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = lr, 0.0
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _backward(work: Work, model: Any, chat: Encoded) -> None:
    batch = collate([chat], pad_id(work.model.tokenizer)).to(best_device())
    example_losses(model, batch).mean().backward()  # type: ignore[no-untyped-call]


def trainer(work: Work, queries: Sequence[str], ids: Sequence[str], training: Sft) -> Train:
    """A function of positions in `ids` that trains on them from the base and gives [V] losses of the examples
    `queries`, which may be the rows of several targets."""
    recipe, rows = work.recipe, Chats(work)(ids)
    _, target = usable_chats(work, queries)

    def train(positions: Sequence[int]) -> F64:
        model = load_lora(work.model, recipe.model, recipe.lora, recipe.seed)
        fit(model, work.model.tokenizer, [rows[k] for k in positions], training, recipe.seed)
        return row_losses(model, work.model.tokenizer, target, recipe.features.batch_tokens)

    return train


def halves(n: int, runs: int, seed: int) -> list[list[int]]:
    """Random halves of n positions."""
    rng = np.random.default_rng([seed, 3])
    return [sorted(rng.permutation(n)[: n // 2].tolist()) for _ in range(runs)]


def measure_halves(
    train: Train, parts: Sequence[Sequence[int]], known: F64 | None = None, keep: Callable[[F64], None] = lambda _: None
) -> F64:
    """[R, V] losses of the target's rows after training on each part. `known` are those of the first parts, which are
    not trained on again; `keep` is called with all there are after each training."""
    losses = [] if known is None else list(known[: len(parts)])
    for part in parts[len(losses) :]:
        losses.append(train(part))
        keep(np.array(losses))
    return np.array(losses)


def lds(scores: F64, parts: Sequence[Sequence[int]], losses: F64) -> F64:
    """[V] scores of [N, V] attributions: high scores should mean low losses."""
    predicted = np.array([scores[list(part)].sum(axis=0) for part in parts])
    return statistics.lds(predicted, -losses)


def removal_at_random(train: Train, n: int, fraction: float, draws: int, seed: int) -> list[float]:
    """Mean target losses after training without a fraction of n rows drawn at random, once for each draw."""
    k = max(1, round(fraction * n))
    rng = np.random.default_rng([seed, 4])
    return [float(train(sorted(rng.permutation(n)[k:].tolist())).mean()) for _ in range(draws)]


def removal(train: Train, scores: F64, fraction: float, at_random: Sequence[float]) -> dict[str, float | None]:
    """Mean target loss after training without the top fraction by mean score, beside as many removed at random, with
    the standard deviation of one such draw (None: a single one)."""
    n = len(scores)
    top = set(np.lexsort((np.arange(n), -scores.mean(axis=1)))[: max(1, round(fraction * n))].tolist())
    without_top = float(train([i for i in range(n) if i not in top]).mean())
    mean, spread = float(np.mean(at_random)), float(np.std(at_random, ddof=1)) if len(at_random) > 1 else None
    return {
        "fraction": fraction,
        "without_top": without_top,
        "without_random": mean,
        "random_sd": spread,
        "damage": without_top - mean,
    }


def exact_dots(work: Work, e: Evidence, ids: Sequence[str], checkpoint: int = -1) -> F64:
    """[N, V] products of whole gradients (no projection, no optimizer) at one checkpoint, by a loop of backward passes.

    Memory 4·(N + V)·P bytes for P adapter weights: for small models.
    """
    recipe = work.recipe
    state = checkpoints.load(work.store, checkpoint_of(work, e.pairs[checkpoint]))
    model = load_lora(work.model, recipe.model, recipe.lora, recipe.seed)
    set_adapter(model, state.adapter)
    parameters = list(lora_parameters(model).values())

    def gradients(names: Sequence[str]) -> NDArray[np.float32]:
        _, chats = usable_chats(work, names)
        rows = []
        for chat in chats:
            _backward(work, model, chat)
            rows.append(
                np.concatenate([p.grad.float().cpu().numpy().ravel() for p in parameters if p.grad is not None])
            )
            model.zero_grad(set_to_none=True)
        return np.array(rows)

    return (gradients(ids) @ gradients(sorted(e.target.example_ids)).T).astype(np.float64)


def by_row(work: Work, e: Evidence) -> Evidence:
    """The same evidence with each usable row of the target as a subtask of its own: a score is then [N, V], a column
    for each row, sorted by id."""
    kept, _ = usable_chats(work, sorted(e.target.example_ids))
    return Evidence(e.store, e.pool, replace(e.target, example_ids=kept, subtasks=kept), e.pairs, e.seed, e.encoder)


def attributions(e: Evidence, ids: Sequence[str], named: Mapping[str, tuple[str, Options]]) -> Mapping[str, F64]:
    """{name: [N, V] scores} of the given scores, {name: (registered score, its options)}, from evidence `by_row`, and
    of references: `dot`, products of unnormalised rows over checkpoints; `rds`, cosine of hidden states (where they are
    kept); `bm25`, words; `random`, noise."""
    place = {name: k for k, name in enumerate(e.ids)}
    rows = [place[i] for i in ids]
    found = {name: np.asarray(registered()[score].run(e, **options))[rows] for name, (score, options) in named.items()}
    dot = np.zeros((len(e.ids), len(e.target.example_ids)))
    for pair, weight in zip(e.pairs, e.weights, strict=True):
        queries, _ = e.raw_queries(pair)
        for positions, block in e.raw_blocks(pair, "gradients"):
            dot[positions] += weight * (block @ queries.T)
    found["dot"] = dot[rows]
    last = features.read_all(e.store, e.pairs[-1].train, list(ids))
    if "embedding" in last.signals.column_names:
        query = features.read_all(e.store, e.pairs[-1].query, e.target.example_ids)
        found["rds"] = (unit_rows(last.signal("embedding")) @ unit_rows(query.signal("embedding")).T).astype(np.float64)
    texts = e.texts()
    found["bm25"] = np.asarray(lexical.bm25([texts[k] for k in rows], e.target_texts()), np.float64)
    found["random"] = np.random.default_rng([e.seed, 5]).normal(size=dot[rows].shape)
    return found
