"""Random projections of per-example gradients, P → D: `make_projector` and the families.

A projector takes per-example gradients, one parameter after the other, and gives [B, D] rows whose inner products are
unbiased estimates of the gradients' own. For a pair with cosine ρ the error of the estimate is about (1 − ρ²)/√D
for each of them; they differ in cost and in what they are good for:

| family | cost of a row | for |
|---|---|---|
| `fold` | P multiply-adds | everything: the default |
| `srht`, `dct` | P log P | checks of `fold`: mixed before they are sampled, so no single coordinate can dominate |
| `rademacher`, `gaussian` | 2·P·D FLOPs | small P, parity with the textbook |
| `traker`, `traker_cuda` | 2·P·D FLOPs, and all P coordinates held | parity with LESS and TRAK |

All draws but traker's come from counter-based generators keyed by (seed, parameter name): the same on every device, for
any batch, in any order of parameters.
"""

from collections.abc import Sequence
from typing import Literal

from gradsift.datastore.identity import Spec
from gradsift.pipelines.features.projectors.base import VERSION, PerModule, Projector, SketchProjector
from gradsift.pipelines.features.projectors.dense import DenseProjector
from gradsift.pipelines.features.projectors.fold import FoldProjector
from gradsift.pipelines.features.projectors.hadamard import MixingProjector
from gradsift.pipelines.features.projectors.trak import TrakProjector

Family = Literal["fold", "rademacher", "gaussian", "srht", "dct", "traker", "traker_cuda"]


def make_projector(family: Family, dim: int, seed: int, names: Sequence[str], per_module: bool = False) -> Projector:
    """The projector of a recipe. `names` are the parameters in the model's order, of which `traker` and `per_module`
    make a layout; the others do not depend on them. Raises ValueError for rows by module from traker."""
    sketch = _sketch(family, dim, seed)
    if sketch is None and (per_module or family not in ("traker", "traker_cuda")):
        raise ValueError(f"no projector {family!r}" + " by module" * per_module)
    if sketch is None:
        return TrakProjector(family, dim, seed, names)  # type: ignore[arg-type]
    return PerModule(sketch, names) if per_module else sketch


def _sketch(family: Family, dim: int, seed: int) -> SketchProjector | None:
    if family == "fold":
        return FoldProjector(dim, seed)
    if family == "rademacher" or family == "gaussian":
        return DenseProjector(family, dim, seed)
    if family == "srht" or family == "dct":
        return MixingProjector(family, dim, seed)
    return None


def projector_spec(family: Family, dim: int, seed: int, device: str, per_module: bool = False) -> Spec:
    """What decides the matrix, without loading anything; part of the feature space. `device` counts for traker only,
    whose generators differ by device."""
    spec: Spec = {"family": family, "version": VERSION, "dim": dim, "seed": seed}
    if family in ("traker", "traker_cuda"):
        spec = {**spec, "device": device}
    return {**spec, "per_module": True} if per_module else spec
