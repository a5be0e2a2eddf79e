"""Sections about mixtures: parts, and how each divides its budget among sources."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gradsift.pipelines.recipe.model import Training
from gradsift.pipelines.recipe.section import Name, Section, Share, exactly_one
from gradsift.pipelines.recipe.select import Method

BUDGETS = ("examples", "fraction", "label_tokens", "tokens")


class Prospect(Section):
    """Weights of the worst case over groups (spectral risk with a χ² shift cost)."""

    spectrum: Literal["cvar", "extremile", "esrm"] = "cvar"
    parameter: Annotated[float, Field(gt=0)] = 0.5
    """Tail of `cvar` (a share), order of `extremile` (above 1), slope of `esrm`."""
    shift_cost: Annotated[float, Field(ge=0)] = 1.0
    """0: the worst case itself; large: equal weights. The ν of the authors' formula; their code's is twice as large."""

    @model_validator(mode="after")
    def _fits(self) -> "Prospect":
        if (self.spectrum == "cvar" and self.parameter > 1) or (self.spectrum == "extremile" and self.parameter < 1):
            raise ValueError("`parameter` is a share (at most 1) for `cvar`, and at least 1 for `extremile`")
        return self


class ScalingLaw(Training):
    """Weights that minimise the sum of the sources' predicted losses, fitted on 4·K + 1 short runs (K sources)."""

    rows_each: Annotated[int, Field(ge=3)] = 64
    """Examples of each source in the run with equal weights; the others scale one source by 1/3, 1/2, 2 or 3."""
    held_out: Annotated[int, Field(gt=0)] = 32
    """Examples of each source that the losses are measured on; never trained on, and not in the mixture."""


Weights = Literal["ranking", "proportional", "uniform", "temperature", "tive", "prospect", "scaling_law"]


class Mixing(Section):
    """How a part divides its budget among sources."""

    weights: Weights | dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Share of each source: by size (`proportional`, the default of a random part), equal, size^(1/temperature), mean
    gradient norm (`tive`), worst case (`prospect`), fitted (`scaling_law`), or given as {source: weight}; or let the
    `ranking` decide (the default of a part with a target). Given weights leave the other sources out."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    prospect: Prospect = Prospect()
    scaling_law: ScalingLaw = ScalingLaw()
    caps: dict[str, Share] = Field(default_factory=dict)
    """{source: largest share of the part}."""
    floors: dict[str, Share] = Field(default_factory=dict)
    """{source: smallest share of the part}."""
    at_least: Annotated[int, Field(gt=0)] | None = None
    """With a budget in tokens: so many rows of the part even where they have more tokens than its share."""
    repeat: Annotated[int, Field(ge=1, lt=1 << 31)] = 1
    """Most copies of an example. A source whose budget exceeds its size gives whole copies, then its best once more."""


class Part(Mixing):
    """One part of a mixture."""

    name: Name | None = None
    """Default: its target's name, or `pool`."""
    share: Share | None = None
    """Share of the mixture; parts without one divide what the others leave."""
    target: str | None = None
    """Take what is best for this target; without one, rows are drawn at random."""
    select: Method | None = None
    """How, if not as the recipe's `select` says."""
    sources: list[str] | None = None
    """Only these sources of the pool."""


class Mix(Mixing):
    """One mixture of everything: how many rows, from where, in which shares."""

    examples: Annotated[int, Field(gt=0)] | None = None
    """A number of rows (copies count)."""
    fraction: Annotated[float, Field(gt=0, lt=1 << 31)] | None = None
    """Or a share of the pool, above 1 with `repeat`."""
    label_tokens: Annotated[int, Field(gt=0)] | None = None
    """Or a number of label tokens, counted by the model's tokenizer."""
    tokens: Annotated[int, Field(gt=0)] | None = None
    """Or a number of tokens in all."""
    parts: list[Part] = Field(default_factory=list)
    """Parts in order: an example belongs to the first that takes it. Default: one, the pool, divided as said here."""

    @model_validator(mode="after")
    def _consistent(self) -> "Mix":
        exactly_one(self, *BUDGETS)
        own = [
            n for n, f in Mixing.model_fields.items() if getattr(self, n) != f.get_default(call_default_factory=True)
        ]
        if self.parts and own:
            raise ValueError(f"`{own[0]}` belongs in the parts, since there are `parts`")
        if not (self.label_tokens or self.tokens) and any(part.at_least for part in (self, *self.parts)):
            raise ValueError("`at_least` is the least number of rows of a budget in `label_tokens` or `tokens`")
        names = [part.name or part.target or "pool" for part in self.parts]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two parts are named {twice[0]!r}; give them names of their own")
        shares = [part.share for part in self.parts if part.share is not None]
        whole = sum(shares)
        if whole > 1 + 1e-9 or (len(shares) == len(self.parts) and self.parts and abs(whole - 1) > 1e-9):
            raise ValueError(f"the shares of the parts sum to {whole:g}, not to 1")
        if len(shares) < len(self.parts) and whole > 1 - 1e-9:
            raise ValueError("the parts with a share leave nothing for the one without")
        return self

    def all_parts(self) -> list[Part]:
        """The parts, each with its share and name."""
        mixing = {name: getattr(self, name) for name in Mixing.model_fields}
        parts = self.parts or [Part(**mixing)]
        left = 1 - sum(part.share for part in parts if part.share is not None)
        rest = left / max(1, sum(part.share is None for part in parts))
        return [
            part.model_copy(
                update={
                    "share": rest if part.share is None else part.share,
                    "name": part.name or part.target or "pool",
                }
            )
            for part in parts
        ]
