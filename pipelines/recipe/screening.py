"""Sections about screening: near-duplicates and leaks to leave out of the pool."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gradsift.pipelines.recipe.pool import Source
from gradsift.pipelines.recipe.section import Name, Section

Against = Literal["test", "target"]
EVERYTHING: tuple[Against, ...] = ("test", "target")


class MinHash(Section):
    """Near-duplicates by the Jaccard index of word n-grams, estimated by MinHash."""

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Least index of two texts that count as the same; the estimate's standard error at 0.8 is 0.035."""
    permutations: Annotated[int, Field(ge=16, le=1024)] = 128
    ngram: Annotated[int, Field(gt=0)] = 5
    """Words (signs count) of a shingle."""


class Semantic(Section):
    """SemDeDup: near-duplicates by the cosine of two rows."""

    represent: Literal["encoder", "embedding", "gradients"] = "encoder"
    """`encoder` runs before the gradients and saves theirs; the other two look at what the pass computed: `gradients`
    at rows of plain gradients, which are then kept (rows of Adam's steps are all alike)."""
    encoder: str | None = None
    """Local folder of a sentence encoder, for `represent: encoder`."""
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Rows with a cosine above 1 − epsilon are the same."""
    clusters: Annotated[int, Field(gt=0)] | None = None
    """Clusters that are searched; default: √N."""
    keep: Literal["hard", "easy"] = "hard"
    """Which one stays: the farthest from its cluster's centre (the paper's choice), or the nearest."""

    @model_validator(mode="after")
    def _has_encoder(self) -> "Semantic":
        if (self.represent == "encoder") != (self.encoder is not None):
            raise ValueError("`represent: encoder` and `encoder`, the folder of a sentence encoder, go together")
        return self


class Dedup(Section):
    """Near-duplicates to leave out of the pool (same chats are always merged)."""

    exact: bool = True
    """Same text but for case and white space."""
    minhash: MinHash | None = MinHash()
    semantic: Semantic | None = None
    prefer: list[str] = Field(default_factory=list)
    """Sources whose rows stay when they repeat another's, first the most preferred; then the smaller id."""
    keep: list[str] = Field(default_factory=list)
    """Example ids that stay in any case."""


class Decontaminate(Section):
    """Leave pool rows out that contain a row of a target or test set."""

    ngram: Annotated[int, Field(gt=1)] = 8
    """Words of an n-gram; 0.5 of a turn covered by 8-grams is the rule of Tülu 3, any 13-gram that of GPT-3."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """A row is left out when its users' n-grams cover more than this share of a user turn; 0: any common n-gram."""
    common: Annotated[int, Field(gt=0)] = 10
    """Words of n-grams in more turns of the sets, or more rows of the pool, than this are boilerplate: not counted."""
    minhash: MinHash | None = MinHash()
    """Also leave near-duplicates of whole chats out."""
    against: list[Against] = Field(default_factory=lambda: list(EVERYTHING))
    """Which of the targets' sets."""
    sets: dict[Name, Source] = Field(default_factory=dict)
    """More sets that the pool must not contain, such as benchmarks."""
    keep: list[str] = Field(default_factory=list)
    """Example ids that stay in any case."""
