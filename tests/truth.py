"""What a store's rows and signals must be, by a loop of plain autograd: transformers' own forward, torch's own
cross-entropy, one `backward()` for each example, the moments as the warm-up left them, the projection spelt out.

Legend: N examples, P weights of the adapter, D dims.
"""

from dataclasses import dataclass

import numpy as np
import torch

from gradsift.datastore import checkpoints, examples, features
from gradsift.pipelines.features.projectors.fold import draws
from gradsift.pipelines.model.chats import usable_chats
from gradsift.pipelines.model.load import load_lora, set_adapter


@dataclass(frozen=True)
class Rows:
    """Of examples at one checkpoint: plain gradients by weight [N, …], whole [N, P] and as rows [N, D], rows of Adam's
    steps [N, D], none normalised, and by name what else the pass must keep."""

    by_name: dict[str, np.ndarray]
    gradients: np.ndarray
    plain: np.ndarray
    adam: np.ndarray
    signals: dict[str, np.ndarray]
    tokens: dict[str, list[np.ndarray]]

    @property
    def sizes(self):
        return {name: gradients[0].size for name, gradients in self.by_name.items()}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fold(named, dim, seed=0):
    """y[(o + p) mod D] += s[p]·g[p], parameter by parameter."""
    row = np.zeros(dim)
    for name, gradient in named.items():
        flat = gradient.ravel().astype(np.float64)
        offset, signs = draws(seed, name, len(flat), dim)
        np.add.at(row, (offset + np.arange(len(flat))) % dim, signs * flat)
    return row


def adam(gradient, m, v, step, beta1=0.9, beta2=0.999, eps=1e-8):
    """AdamW's step for one example, without decay, over its learning rate."""
    m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
    return (m / (1 - beta1 ** (step + 1))) / (np.sqrt(v / (1 - beta2 ** (step + 1))) + eps)


def example_loss(model, ids, labelled):
    """(mean loss over label tokens, its parts) of one chat on its own."""
    tokens = torch.tensor([ids])
    out = model(input_ids=tokens, output_hidden_states=True)
    kept = torch.tensor(labelled[1:])
    logits = out.logits[0, :-1][kept].float()
    nll = torch.nn.functional.cross_entropy(logits, tokens[0, 1:][kept], reduction="none")
    return nll.mean(), nll.detach(), logits.detach(), tokens[0, 1:][kept], out.hidden_states[-1][0].detach()


def true_rows(work, space, ids):
    """Rows of examples at the checkpoint of a space. The model is the recipe's, with the warm-up's adapter."""
    spec = features.space_spec(work.store, space)
    point = checkpoints.by_digest(work.store, spec["checkpoint"])
    state = checkpoints.load(work.store, point)
    model = load_lora(work.model, work.recipe.model, work.recipe.lora, work.recipe.seed)
    set_adapter(model, state.adapter)
    kept, chats = usable_chats(work, ids)
    assert kept == list(ids)
    dim = spec["projector"]["dim"]
    found = {key: [] for key in ("gradients", "plain", "adam")}
    signals = {
        key: [] for key in ("loss", "entropy", "el2n", "grad_norm", "n_label_tokens", "embedding", "answer_loss")
    }
    tokens = {"token_nll": [], "token_entropy": []}
    by_name = []
    bos = work.model.tokenizer.bos_token_id
    for chat in chats:
        model.zero_grad()
        loss, nll, logits, wanted, hidden = example_loss(model, chat.input_ids, chat.labelled)
        loss.backward()
        named = {n: p.grad.double().numpy() for n, p in model.named_parameters() if p.requires_grad}
        steps = {n: adam(g, state.exp_avg[n], state.exp_avg_sq[n], point.step) for n, g in named.items()}
        by_name.append(named)
        found["gradients"].append(np.concatenate([g.ravel() for g in named.values()]))
        found["plain"].append(fold(named, dim))
        found["adam"].append(fold(steps, dim))
        p = logits.double().softmax(-1)
        entropy = -(p * p.log()).sum(-1)
        onehot = torch.nn.functional.one_hot(wanted, p.shape[-1])
        places = torch.arange(1, len(hidden) + 1).double()
        answer = [token for token, label in zip(chat.input_ids, chat.labelled, strict=True) if label]
        alone = answer if bos is None else [bos, *answer]
        with torch.no_grad():
            without = example_loss(model, alone, [False] + [True] * (len(alone) - 1))[0]
        values = {
            "loss": loss.item(),
            "entropy": entropy.mean().item(),
            "el2n": (p - onehot).norm(dim=-1).mean().item(),
            "grad_norm": float(np.sqrt(sum((g**2).sum() for g in named.values()))),
            "n_label_tokens": sum(chat.labelled),
            "embedding": ((places / places.sum()) @ hidden.double()).numpy(),
            "answer_loss": without.item(),
        }
        for key, value in values.items():
            signals[key].append(value)
        tokens["token_nll"].append(nll.numpy())
        tokens["token_entropy"].append(entropy.numpy())
    arrays = {key: np.array(rows) for key, rows in found.items()}
    named = {name: np.stack([gradients[name] for gradients in by_name]) for name in by_name[0]}
    return Rows(named, **arrays, signals={key: np.array(values) for key, values in signals.items()}, tokens=tokens)


def texts(store, ids):
    return ["\n".join(turn["content"] for turn in examples.get_messages(store, [i])[i]) for i in ids]
