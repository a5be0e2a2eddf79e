"""Encoded chats → feature rows and signals, in one forward and backward for each batch.

Signals of a row, columns of its shard: `loss` (mean over label tokens, nats), `entropy` and `el2n` (means likewise),
`grad_norm` (of the plain gradient, before projection: what papers mean by a gradient's norm), `transformed_norm` (of
what was projected), `n_tokens`, `n_label_tokens`; as the recipe asks `token_nll` and `token_entropy` (label tokens in
order), `embedding` (RDS+: Σ_t t·h_t / Σ_t t over all tokens, t from 1, h after the final norm), `module_norms` (of the
plain gradient, one for each layer, names in the schema's metadata) and `answer_loss` (mean NLL of the label tokens
given only those before them; NaN where none is left to predict).

Rows of the plain gradient can be made beside transformed ones in the same pass: one more sketch. They keep `grad_norm`
alone, since the other signals lie beside the transformed rows.

Nothing waits for the device inside a batch, nor between batches: results are fetched at the end of a unit.
Legend: N rows, B examples of a batch, D dims, L label tokens, M layers.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import InputError
from gradsift.datastore.rows import FeatureBlock, make_block
from gradsift.pipelines.features.capture import backward, contract, watched_layers
from gradsift.pipelines.features.fit import look
from gradsift.pipelines.features.projectors import make_projector
from gradsift.pipelines.features.projectors.factors import Factors
from gradsift.pipelines.features.space import GradientJob
from gradsift.pipelines.features.transforms import Transform, make_transform
from gradsift.pipelines.model.batches import Batch, by_length, collate, pad_id
from gradsift.pipelines.model.devices import best_device
from gradsift.pipelines.model.encode import Encoded, encode
from gradsift.pipelines.model.head import example_means, token_losses
from gradsift.pipelines.model.load import load_base, load_lora, set_adapter
from gradsift.pipelines.model.trunk import hidden_states
from gradsift.pipelines.recipe import Signals

Columns = dict[str, torch.Tensor]  # of a batch, by name: [B, ...], or [L] for those of tokens
PLAIN = "plain"  # the column of plain rows


@dataclass(frozen=True)
class Extracted:
    """What a pass gave: the job's rows, with the status of each chat that has none; and, where asked for, the rows of
    the plain gradient, likewise."""

    block: FeatureBlock
    rejected: Mapping[str, str]
    plain: FeatureBlock | None = None
    plain_rejected: Mapping[str, str] | None = None


class Extractor:
    """A loaded model that turns encoded chats into rows. One for each worker."""

    def __init__(self, job: GradientJob) -> None:
        self.job = job
        self.device = best_device()
        if job.state.adapter:
            self.model = load_lora(job.loaded, job.model, job.lora, job.seed)
            set_adapter(self.model, job.state.adapter)
        else:
            self.model = load_base(job.loaded, job.model)
        features = job.features
        layers = watched_layers(self.model, features.parameters, features.patterns)
        self.fit = look(self.model, layers, job.loaded, job.model.attention, job.lora)
        self.layers = {name: layer for name, layer in layers.items() if name not in self.fit.left_out}
        p = features.projector
        self.projector = make_projector(p.family, p.dim, p.seed, list(self.layers), p.per_module)
        self.factors = Factors(features.factor_dim, p.seed) if features.factor_dim else None
        self.transform = self._transform(job.transform)
        self._sizes: dict[str, int] = {}  # of each layer's weight, as seen
        self.batch_tokens = features.batch_tokens if self.fit.together else 1  # lowered when memory runs out

    def _transform(self, kind: str) -> Transform:
        state, step = self.job.state, self.job.checkpoint.step
        return make_transform(kind, state.exp_avg, state.exp_avg_sq, step, self.device)

    def encode(self, messages: Messages) -> Encoded:
        """Encode one chat as this job does."""
        encoding = self.job.encoding
        return encode(self.job.loaded.tokenizer, messages, encoding.max_length, encoding.truncation)

    def rows(
        self, ids: Sequence[str], chats: Sequence[Encoded], as_query: bool = False
    ) -> tuple[FeatureBlock, dict[str, str]]:
        """Feature rows of usable chats, in the given order, and {id: status} of those without a finite,
        non-zero gradient; `as_query`: rows as a target has them, with the transform and loss for targets.

        Raises InputError naming a chat that does not fit into memory even alone.
        """
        made = self.extract(ids, chats, as_query=as_query)
        return made.block, dict(made.rejected)

    def extract(
        self, ids: Sequence[str], chats: Sequence[Encoded], *, as_query: bool = False, plain: bool = False
    ) -> Extracted:
        """The rows of usable chats as `rows` gives them, and with `plain` those of the plain gradient beside them."""
        job = self.job.as_query() if as_query else self.job
        change = self._transform(job.transform) if as_query else self.transform
        lengths = [len(chat.input_ids) for chat in chats]
        todo = deque(by_length(lengths, self.batch_tokens))
        done: list[tuple[list[int], Columns]] = []
        while todo:
            part = todo.popleft()
            try:
                done.append((part, self._batch([chats[k] for k in part], change, job.loss, plain)))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise InputError(
                        f"example {ids[part[0]]} ({lengths[part[0]]} tokens) does not fit into memory alone; "
                        "lower encoding.max_length"
                    ) from error
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                self.batch_tokens = lengths[part[0]] * (len(part) // 2)
                todo.extendleft((part[len(part) // 2 :], part[: len(part) // 2]))
        return self._extracted(ids, done)

    def _batch(self, chats: Sequence[Encoded], change: Transform, loss: str, plain: bool) -> Columns:
        wanted = Signals.none() if self.job.bare else self.job.features.signals
        batch = collate(chats, pad_id(self.job.loaded.tokenizer)).to(self.device)
        sketch = self.projector.start(len(chats), self.device)
        beside = self.projector.start(len(chats), self.device) if plain else None
        norms: dict[str, torch.Tensor] = {}
        changed: dict[str, torch.Tensor] = {}

        def consume(name: str, delta: torch.Tensor, x: torch.Tensor) -> None:
            if name in norms:
                raise InputError(f"{name} is used twice in a pass; leave it out by `features.layers`")
            gradient = self.factors.contract(name, delta, x) if self.factors else contract(delta, x)
            norms[name] = _lengths(gradient)
            self._sizes[name] = delta.shape[-1] * x.shape[-1]
            if beside is not None:
                beside.add(name, gradient)
            gamma = change(name, gradient)
            changed[name] = norms[name] if gamma is gradient else _lengths(gamma)
            sketch.add(name, gamma)

        losses, tokens = backward(
            self.model, batch, self.layers, consume, wanted.embedding, loss, by_autograd=self.fit.by_autograd
        )
        modules = torch.stack([norms[name] for name in self.layers], 1)
        columns = {
            "vector": sketch.result(),
            "loss": losses.float(),
            "entropy": example_means(tokens.entropy, batch),
            "el2n": example_means(tokens.el2n, batch),
            "grad_norm": torch.linalg.vector_norm(modules, dim=1),
            "transformed_norm": torch.linalg.vector_norm(torch.stack([changed[n] for n in self.layers], 1), dim=1),
            "n_tokens": batch.attention_mask.sum(1),
            "n_label_tokens": batch.counts,
        }
        if beside is not None:
            columns[PLAIN] = beside.result()
        if wanted.tokens:
            columns |= {"token_nll": tokens.nll.detach(), "token_entropy": tokens.entropy}
        if wanted.embedding:
            columns["embedding"] = position_weighted_mean(tokens.hidden, batch)
        if wanted.module_norms:
            columns["module_norms"] = modules
        if wanted.answer_loss:
            columns["answer_loss"] = self._answer_loss(chats)
        return columns

    @torch.no_grad()
    def embeddings(self, chats: Sequence[Encoded]) -> NDArray[np.float16]:
        """[N, H] embeddings of chats as rows keep them, of chats without a label token, too. One forward for each
        batch; every chat must have a token."""
        lengths = [len(chat.input_ids) for chat in chats]
        made: dict[int, NDArray[np.float16]] = {}
        for part in by_length(lengths, self.batch_tokens):
            batch = collate([chats[k] for k in part], pad_id(self.job.loaded.tokenizer)).to(self.device)
            means = position_weighted_mean(hidden_states(self.model, batch), batch)
            made |= zip(part, means.cpu().numpy().astype(np.float16), strict=True)
        return np.stack([made[k] for k in range(len(chats))])

    @torch.no_grad()
    def _answer_loss(self, chats: Sequence[Encoded]) -> torch.Tensor:
        """[B] loss of the label tokens on their own, after the tokenizer's BOS where it has one."""
        tokenizer, losses = self.job.loaded.tokenizer, torch.full((len(chats),), torch.nan, device=self.device)
        alone = [_alone(chat, tokenizer.bos_token_id) for chat in chats]
        kept = [k for k, chat in enumerate(alone) if any(chat.labelled)]
        if kept:
            batch = collate([alone[k] for k in kept], pad_id(tokenizer)).to(self.device)
            losses[kept] = example_means(token_losses(self.model, batch).nll, batch)
        return losses

    def _extracted(self, ids: Sequence[str], done: list[tuple[list[int], Columns]]) -> Extracted:
        fetched = [(part, {name: t.cpu().numpy() for name, t in columns.items()}) for part, columns in done]
        order = np.argsort([k for part, _ in fetched for k in part])
        names = list(fetched[0][1])
        whole = {n: np.concatenate([c[n] for _, c in fetched]) for n in names if not n.startswith("token_")}
        whole = {n: values[order] for n, values in whole.items()}
        projected, plain = whole.pop("vector"), whole.pop(PLAIN, None)
        table = {name: _column(name, values) for name, values in whole.items()}
        for name in (n for n in names if n.startswith("token_")):
            table[name] = _ragged([c[name] for _, c in fetched], [c["n_label_tokens"] for _, c in fetched], order)
        finite, norms = np.isfinite(whole["loss"]), pa.table({"grad_norm": table["grad_norm"]})
        made = self._block(ids, projected, finite, norms if self.job.bare else pa.table(table))
        return Extracted(*made) if plain is None else Extracted(*made, *self._block(ids, plain, finite, norms))

    def _block(
        self, ids: Sequence[str], projected: NDArray[np.float32], finite_loss: NDArray[np.bool_], table: pa.Table
    ) -> tuple[FeatureBlock, dict[str, str]]:
        finite = np.isfinite(projected).all(1) & finite_loss
        zero = finite & ~projected.any(1)
        good = np.flatnonzero(finite & ~zero)
        rejected = {ids[k]: "zero" if zero[k] else "non_finite" for k in np.flatnonzero(~finite | zero).tolist()}
        signals = table.take(pa.array(good))
        if "module_norms" in table.column_names or self.job.features.projector.per_module:
            sizes = [self._sizes[name] for name in self.layers]
            signals = signals.replace_schema_metadata(
                {"gradsift.modules": json.dumps(list(self.layers)), "gradsift.sizes": json.dumps(sizes)}
            )
        kept = [ids[k] for k in good.tolist()]
        return make_block(kept, projected[good], signals, self.job.features.row_dtype), rejected


def _lengths(gradient: torch.Tensor) -> torch.Tensor:
    lengths: torch.Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return lengths


def _alone(chat: Encoded, bos: int | None) -> Encoded:
    ids = tuple(token for token, label in zip(chat.input_ids, chat.labelled, strict=True) if label)
    start = () if bos is None else (bos,)
    return Encoded(start + ids, (False,) * len(start) + (bos is not None,) + (True,) * (len(ids) - 1), chat.status)


def position_weighted_mean(hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """[B, H] mean of the last hidden states [B, T, H], weighted by position from 1; padding does not count (RDS+)."""
    weights = ((batch.positions + 1) * batch.attention_mask).float()
    weights /= weights.sum(1, keepdim=True)
    return torch.bmm(weights[:, None], hidden.float())[:, 0]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU (where torch raises a plain RuntimeError)."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _column(name: str, values: NDArray[Any]) -> pa.Array:
    if name.startswith("n_"):
        return pa.array(values.astype(np.int32))
    if values.ndim == 1:
        return pa.array(values.astype(np.float32))
    flat = values.astype(np.float16 if name == "embedding" else np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), values.shape[1])


def _ragged(values: list[NDArray[Any]], counts: list[NDArray[Any]], order: NDArray[Any]) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int32)
    flat = pa.array(np.concatenate(values).astype(np.float16))
    return pa.ListArray.from_arrays(pa.array(offsets), flat).take(pa.array(order))
