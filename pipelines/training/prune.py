"""Q-Tuning's dynamic mode: a callback of the training loop that prunes each batch before its step.

The paper's order: a pass without gradients scores the batch as the model is now, examples outside the two quadrants
are dropped, and tokens of the second quadrant leave the loss (scorers/qtuning.py has the formulas). The training loss
is this project's mean over examples of each one's mean over the label tokens that are left; the paper takes the mean
over all tokens that are left. Cost: one forward for each batch on top of the step, whose backward then sees fewer
rows.
"""

from typing import Any

import numpy as np
import torch

from gradsift.pipelines.model.batches import collate, pad_id
from gradsift.pipelines.model.devices import best_device
from gradsift.pipelines.model.encode import Encoded
from gradsift.pipelines.model.head import token_losses
from gradsift.pipelines.recipe import QTuning
from gradsift.pipelines.training.sft import Prune
from gradsift.scorers import qtuning


def dynamic(settings: QTuning, tokenizer: Any) -> Prune:
    """The callback for `sft.fit`. A batch of one example is kept, with its tokens pruned if it is in Q2."""

    def prune(model: Any, rows: list[Encoded]) -> list[Encoded]:
        nll, entropy = score(model, tokenizer, rows)
        ppl = np.array([np.exp(v.mean()) for v in nll])
        uncertainty = np.array([v.mean() for v in entropy])
        quadrants = qtuning.choose(ppl, uncertainty, settings.sample_ratio, settings.supplement)
        if settings.draft_budget:
            attended = [len(row.input_ids) for row in rows]
            masks = qtuning.draft_tokens(
                nll, attended, quadrants, settings.sample_ratio, settings.token_ratio, settings.smoothing
            )
        else:
            masks = [
                qtuning.keep_tokens(
                    v, settings.token_ratio, settings.smoothing, settings.keep_highest, settings.both_above_median
                )
                if cut
                else np.ones(len(v), bool)
                for v, cut in zip(nll, quadrants.prune, strict=True)
            ]
        kept = [
            row.masked(mask.tolist())
            for row, mask, keep in zip(rows, masks, quadrants.keep, strict=True)
            if keep and mask.any()
        ]
        return kept or [rows[int(quadrants.critical.argmin())]]

    return prune


@torch.no_grad()
def score(model: Any, tokenizer: Any, rows: list[Encoded]) -> tuple[list[Any], list[Any]]:
    """([B] NLL and [B] entropy of each row's label tokens, float64), without gradients and without dropout."""
    training = model.training
    model.eval()
    tokens = token_losses(model, collate(rows, pad_id(tokenizer)).to(best_device()))
    model.train(training)
    cuts = np.cumsum([row.n_label_tokens for row in rows])[:-1]
    nll, entropy = (v.double().cpu().numpy() for v in (tokens.nll, tokens.entropy))
    return np.split(nll, cuts), np.split(entropy, cuts)
