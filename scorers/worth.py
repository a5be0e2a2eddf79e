"""What a gain is worth: gain per FLOP, and from where on a selection pays for itself.

    gain per FLOP = (L_r − L_a) / (S/n + s + T_a)
    pays         ⇔  S/n + s + (T_a − T_r) ≤ W,     W = T_r · (L_r − L_a) / (L_b − L_r)

with mean test losses L_b of the model as it is, L_r of the arm of random rows, L_a of the arm; FLOPs T_r and T_a of one
training of each; S of selecting that serves all n targets, s that of one target alone. W is what the gain would have
cost in training on more random rows, if they went on lowering the loss as they did so far, per FLOP. They lower it
less and less, so W is too small rather than too large, and "pays" is said too late rather than too early.

    from target     n ≥ S / (W − s − (T_a − T_r))
    from training   m ≥ (S/n + s) / (W − (T_a − T_r))   times as long, if the gain stays what it is

This is the project's own arithmetic, not a paper's. Everything is in FLOPs and nats.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Spent:
    """FLOPs: of selecting for all targets together, of selecting for one alone, of a training of the arm, and of one on
    random rows; and how many targets there are."""

    shared: float
    own: float
    training: float
    at_random: float
    targets: int

    @property
    def selecting(self) -> float:
        """A target's part."""
        return self.shared / self.targets + self.own


@dataclass(frozen=True)
class Pays:
    """From how many targets on a selection pays, and from how many times the training; None: it never does so."""

    targets: int | None
    times: float | None


def per_flop(gain: float, spent: Spent) -> float:
    """Nats for each FLOP that was spent for them."""
    return gain / (spent.selecting + spent.training)


def pays(base: float, random: float, arm: float, spent: Spent) -> Pays:
    """From where on an arm that is better than random is worth what it costs more."""
    longer = spent.training - spent.at_random
    worth = math.inf if random >= base else spent.at_random * (random - arm) / (base - random)
    left = worth - longer
    if left <= 0:
        return Pays(None, None)
    rest = left - spent.own
    targets = None if rest <= 0 else max(1, math.ceil(spent.shared / rest - 1e-9))
    return Pays(targets, spent.selecting / left)
