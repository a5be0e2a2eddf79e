"""Sections about choosing: the method, and how much."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from gradsift.datastore.suggest import suggestion
from gradsift.pipelines.methods.registry import (
    Needs,
    Options,
    between,
    checked_options,
    methods,
    needs_of,
    options_of,
    rules,
    scores,
)
from gradsift.pipelines.recipe.section import Section, exactly_one

BUDGET = ("fraction", "examples", "label_tokens", "at_least")


class Method(Section):
    """How to choose."""

    method: str = "less"
    """A method by name; `gradsift methods` lists them. It sets score, rule and their options."""
    score: str | None = None
    """Another score than the method's: none, similarity, influence, phi, signal, loss_drop, bm25, dsir."""
    rule: str | None = None
    """Another rule than the method's: top_k, round_robin, bids, quota, softmax, window, stratified, random, …"""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of score and rule, over the method's own; `gradsift methods --json` lists them with their defaults."""
    encoder: str | None = None
    """Local folder of a sentence encoder, for `represent: encoder` and the method `embed`."""

    @model_validator(mode="after")
    def _known_parts(self) -> "Method":
        for what, name, known in (
            ("method", self.method, methods()),
            ("score", self.score, scores()),
            ("rule", self.rule, rules()),
        ):
            if name is not None and name not in known:
                hint = suggestion(name, known, f"known: {', '.join(known)}")
                raise ValueError(f"no {what} `{name}`; {hint}")
        score, rule, options = self.parts()
        checked_options(score, rule, options)
        if "encoder" in self.needs and self.encoder is None:
            raise ValueError(f"{_encodes(options)} needs `encoder`, the folder of a sentence encoder")
        return self

    @property
    def needs(self) -> Needs:
        """What the method looks at, with the options given here."""
        return needs_of(*self.parts())

    @property
    def between(self) -> list[str]:
        """The methods that it chooses between; [] for one that chooses by itself."""
        _, rule, options = self.parts()
        return between(rule, options)

    def parts(self) -> tuple[str, str, Options]:
        """(score, rule, options): the method's, with what is given here instead. The method's options go where neither
        the score nor the rule chosen here takes them."""
        method = methods()[self.method]
        score, rule = self.score or method.score, self.rule or method.rule
        known = options_of(score, rule)
        return score, rule, {n: v for n, v in method.options.items() if n in known} | self.options


def _encodes(options: Options) -> str:
    """What of a method asks for a sentence encoder."""
    return "`represent: encoder`" if options.get("represent") == "encoder" else "a member of `fused`"


class Select(Method):
    """How much to choose, and how."""

    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the pool's usable examples."""
    examples: Annotated[int, Field(gt=0)] | None = None
    """Or a number of examples."""
    label_tokens: Annotated[int, Field(gt=0)] | None = None
    """Or a number of label tokens, not to be exceeded but for `at_least`."""
    at_least: Annotated[int, Field(gt=0)] | None = None
    """With `label_tokens`: so many examples even where they have more tokens than that."""

    @model_validator(mode="after")
    def _one_budget(self) -> "Select":
        exactly_one(self, "fraction", "examples", "label_tokens")
        if self.at_least is not None and self.label_tokens is None:
            raise ValueError("`at_least` is the least number of examples of a budget in `label_tokens`; give that, too")
        return self

    @property
    def budget(self) -> Options:
        """The fields that say how much, those that are given."""
        return self.model_dump(include=set(BUDGET), exclude_none=True)

    def by(self, method: str) -> "Select":
        """As much by another method, with that one's own options."""
        return Select(method=method, encoder=self.encoder, **self.budget)
