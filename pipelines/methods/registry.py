"""The tables of scores, rules and methods, and the decorators that fill them.

A *score* gives every pool example a number (or one for each column of a target), a *rule* chooses from scores, a
*method* is a name for one of each with options. Options are keyword arguments; recipes and the command line check them
against the annotations. Every score and rule says in data what it needs (`Need`), so that a run computes that and
nothing else: `random` and `bm25` need no model, `embed` a sentence encoder alone.

Another package adds its own by an entry point of the group `gradsift.methods` that names a module; importing it runs
the decorators (examples/method-package). The same name twice is an error.
"""

import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from gradsift.datastore.compared import Portfolio
from gradsift.datastore.errors import InputError
from gradsift.datastore.suggest import suggestion
from gradsift.pipelines.methods.memory import PER_EXAMPLE, Memory, Sizes

GROUP = "gradsift.methods"
BUILT_IN = ("scores", "rules", "row_rules", "fused", "portfolio", "presets")

Need = Literal[
    "gradients", "plain", "signals", "embedding", "tokens", "answer_loss", "encoder", "texts", "target", "training"
]
"""`gradients` are projected rows as the pool's transform makes them, with unit length; `plain` rows of the plain
gradient, with the length it has; `signals`, `embedding`, `tokens` and `answer_loss` what the same pass keeps beside
them (the last three can be switched off); `encoder` rows of a sentence encoder; `texts` the chats themselves; `target`
rows or texts of a target; `training` a model that the score trains."""
Needs = frozenset[Need]
ORDER: tuple[Need, ...] = typing.get_args(Need)
REPRESENTED: tuple[Need, ...] = ("plain", "gradients", "embedding", "encoder")
# Made by the gradient pass.
ROWS: Needs = frozenset({"gradients", "plain", "signals", "embedding", "tokens", "answer_loss"})

Options = Mapping[str, Any]
UNSTATED = Memory(lambda _s, _o: 0, "not stated")  # of another package's, that says nothing
F64 = NDArray[np.float64]
NeedsOf = Callable[[Options], Needs]
NamesOf = Callable[[Options], Iterable[str]]
Function = TypeVar("Function", bound=Callable[..., Any])
Entry = TypeVar("Entry")  # of a table: a score, a rule or a method


@dataclass(frozen=True)
class Choice:
    """What a rule chooses: positions in order, and where it makes them, columns for every example and masks of label
    tokens by position. Of a rule that chooses between methods also the [N] scores of the one that it took, and how it
    came to that."""

    order: NDArray[np.int64]
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    masks: Mapping[int, NDArray[np.bool_]] = field(default_factory=dict)
    scores: F64 | None = None
    portfolio: Portfolio | None = None


@dataclass(frozen=True)
class Score:
    """A score: `run(evidence, **options)` gives [N], or [N, J] with a column for each subtask or query. `made_of` names
    methods and scores that decide it, and raises UnknownOption for options that do not go together."""

    name: str
    run: Callable[..., F64]
    needs: NeedsOf
    memory: Memory = UNSTATED
    made_of: NamesOf = lambda _options: ()


@dataclass(frozen=True)
class Rule:
    """A rule: `run(evidence, scores, size, **options)`. `prefix`: choosing more only makes the order longer, so that a
    budget of tokens may cut it anywhere. `between` names the methods that a rule chooses between; such a rule is
    `run(evidence, by, **options)`, where `by(evidence, method)` is what a method chooses under the same budget, with
    its scores. It raises UnknownOption for a name that is no method's."""

    name: str
    run: Callable[..., Choice]
    needs: NeedsOf
    prefix: bool
    memory: Memory = UNSTATED
    between: NamesOf | None = None


@dataclass(frozen=True)
class Method:
    """A preset. `cost` comes on top of the pass: N pool rows, V target rows, D dims, k picks. `extra` is the optional
    dependency that it needs."""

    what: str
    score: str
    rule: str
    cost: str
    source: str
    options: Options = field(default_factory=dict)
    extra: str = ""

    @property
    def needs(self) -> Needs:
        """What it needs with its own options."""
        return needs_of(self.score, self.rule, self.options)


_SCORES: dict[str, Score] = {}
_RULES: dict[str, Rule] = {}
_METHODS: dict[str, Method] = {}
_FOREIGN: dict[tuple[str, str], str] = {}  # {("score", "rule" or "method", name): package and version}


def _needs(given: NeedsOf | Needs | set[Need] | tuple[Need, ...]) -> NeedsOf:
    if callable(given):
        return given
    if isinstance(given, str):
        raise TypeError(f"`needs` is a tuple of names: write needs=({given!r},)")
    for need in given:
        if need not in ORDER:
            hint = suggestion(need, ORDER, f"there are: {', '.join(ORDER)}")
            raise ValueError(f"no need {need!r}; {hint}")
    fixed = frozenset(given)
    return lambda _options: fixed


def _with_checked_options(function: Function, name: str) -> Function:
    for option, parameter in _takes(function).items():
        if parameter.annotation is parameter.empty or parameter.default is parameter.empty:
            raise TypeError(f"`{name}`: its option `{option}` must have an annotation and a default")
    return function


def represented(*others: Need) -> NeedsOf:
    """What a score or rule needs that looks at the rows named by its option `represent`, and what `others` says."""
    return lambda options: frozenset({options["represent"], *others})


def score(
    name: str,
    needs: NeedsOf | tuple[Need, ...] = (),
    *,
    memory: Memory = UNSTATED,
    made_of: NamesOf = lambda _options: (),
) -> Callable[[Function], Function]:
    """Register a function of the evidence and its options as a score. `memory` says what it holds, `made_of` of which
    others it is made."""

    def register(function: Function) -> Function:
        run = _with_checked_options(function, name)
        _add(_SCORES, "score", name, Score(name, run, _needs(needs), memory, made_of))
        return function

    return register


def rule(
    name: str,
    needs: NeedsOf | tuple[Need, ...] = (),
    *,
    prefix: bool = False,
    memory: Memory = UNSTATED,
    between: NamesOf | None = None,
) -> Callable[[Function], Function]:
    """Register a function of the evidence, the scores, a size and its options as a rule. `memory` says what it
    holds, `between` makes it a rule that chooses between methods."""

    def register(function: Function) -> Function:
        run = _with_checked_options(function, name)
        _add(_RULES, "rule", name, Rule(name, run, _needs(needs), prefix, memory, between))
        return function

    return register


def preset(name: str, method: Method) -> None:
    """Register a method made of a registered score and a registered rule."""
    _add(_METHODS, "method", name, method)


def method(
    name: str,
    what: str,
    *,
    needs: tuple[Need, ...] = (),
    rule: str = "top_k",
    cost: str = "N",
    source: str = "",
    memory: Memory = UNSTATED,
) -> Callable[[Function], Function]:
    """Register a score and a method of the same name that chooses by it: all that a new method takes."""

    def register(function: Function) -> Function:
        _require_free(_METHODS, "method", name)
        score(name, needs, memory=memory)(function)
        preset(name, Method(what, name, rule, cost, source))
        return function

    return register


def _add(table: dict[str, Entry], kind: str, name: str, entry: Entry) -> None:
    _require_free(table, kind, name)
    table[name] = entry


def _require_free(table: Mapping[str, object], kind: str, name: str) -> None:
    if name in table:
        owner = _FOREIGN.get((kind, name), "gradsift")
        raise ValueError(f"there is a {kind} {name!r} already, of {owner}; choose another name")


def scores() -> Mapping[str, Score]:
    """All scores by name."""
    _load()
    return _SCORES


def rules() -> Mapping[str, Rule]:
    """All rules by name."""
    _load()
    return _RULES


def methods() -> Mapping[str, Method]:
    """All methods by name."""
    _load()
    return _METHODS


@cache
def _load() -> None:
    """Import what registers: this project's modules, then those of other packages. Raises InputError for one of those
    that cannot be imported."""
    for module in BUILT_IN:
        import_module(f"gradsift.pipelines.methods.{module}")
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        known = _parts()
        package = point.dist.name if point.dist else point.value
        try:
            point.load()
        except Exception as error:
            raise InputError(
                f"the methods of package {package!r} cannot be loaded ({type(error).__name__}: {error}). Repair the "
                "package or uninstall it."
            ) from error
        version = point.dist.version if point.dist else "?"
        _FOREIGN.update(dict.fromkeys(_parts() - known, f"{package} {version}"))


def _parts() -> set[tuple[str, str]]:
    tables: tuple[tuple[str, Mapping[str, object]], ...] = (("score", _SCORES), ("rule", _RULES), ("method", _METHODS))
    return {(kind, name) for kind, table in tables for name in table}


def packages(score: str, rule: str, options: Options) -> list[str]:
    """Other packages that a score, what it is made of, and a rule come from, with their versions; [] for those of this
    project, whose versions are named where they are recorded."""
    of_score = scores()[score]
    parts = [("score", score), ("rule", rule)]
    parts += [(kind, n) for n in of_score.made_of(_with_defaults(of_score, options)) for kind in ("method", "score")]
    for method in (methods()[name] for name in between(rule, options)):
        parts += [("score", method.score), ("rule", method.rule)]
    return sorted({_FOREIGN[part] for part in parts if part in _FOREIGN})


def installed() -> list[str]:
    """Other packages that have scores or rules here, with their versions."""
    _load()
    return sorted(set(_FOREIGN.values()))


class UnknownOption(ValueError):
    """An option that neither the score nor the rule takes, or a value of the wrong kind."""


def _takes(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {n: p for n, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}


def options_of(score: str, rule: str) -> dict[str, tuple[Any, Any]]:
    """{option: (annotation, default)} of a score and a rule together; what both take means the same in both."""
    known: dict[str, tuple[Any, Any]] = {}
    for function in (rules()[rule].run, scores()[score].run):
        hints = typing.get_type_hints(function, include_extras=True)
        known |= {n: (hints[n], p.default) for n, p in _takes(function).items()}
    return known


def needs_of(score: str, rule: str, options: Options) -> Needs:
    """What a score and a rule need together, with these options and each one's own defaults of the others."""
    return _needs_with(scores()[score], options) | _needs_with(rules()[rule], options)


def _needs_with(part: Score | Rule, options: Options) -> Needs:
    return part.needs(_with_defaults(part, options))


def _with_defaults(part: Score | Rule, options: Options) -> Options:
    return {name: p.default for name, p in _takes(part.run).items()} | dict(options)


def parts_of(score: str, rule: str | None) -> list[Score | Rule]:
    """A score and a rule, if any, by their names."""
    return [scores()[score], *([rules()[rule]] if rule is not None else [])]


def memory_of(score: str, rule: str | None, options: Options, sizes: Sizes) -> float:
    """Bytes that a score and a rule (None: the score alone) hold with these options, and what ids take."""
    parts = parts_of(score, rule)
    merged = {name: value for part in reversed(parts) for name, value in _with_defaults(part, options).items()}
    return PER_EXAMPLE * sizes.pool + sum(part.memory.need(sizes, merged) for part in parts)


def memory_of_part(part: Score | Rule, options: Options, sizes: Sizes) -> float:
    """Bytes that a score or a rule alone holds with these options, ids not counted."""
    return part.memory.need(sizes, _with_defaults(part, options))


def looks_at(score: str, rule: str | None, options: Options) -> str:
    """The rows that a score and a rule look at: what their option `represent` names, of those without it the first that
    they need of `REPRESENTED`, or '' for none."""
    parts = parts_of(score, rule)
    for part in parts:
        if represent := _with_defaults(part, options).get("represent"):
            return str(represent)
    needs = frozenset().union(*(_needs_with(part, options) for part in parts))
    return next((name for name in REPRESENTED if name in needs), "")


def checked_options(score: str, rule: str, given: Options) -> Options:
    """The given options in the types of their annotations. Raises UnknownOption with a suggestion."""
    known = options_of(score, rule)
    checked = {}
    for name, value in given.items():
        if name not in known:
            hint = suggestion(name, known, f"known here: {', '.join(sorted(known)) or 'none'}")
            raise UnknownOption(f"score `{score}` and rule `{rule}` take no option `{name}`; {hint}")
        try:
            checked[name] = TypeAdapter(known[name][0], config=ConfigDict(strict=False)).validate_python(value)
        except ValidationError as error:
            raise UnknownOption(f"option `{name}`: {error.errors()[0]['msg']}") from None
        if isinstance(value, bool) and not isinstance(checked[name], bool):
            raise UnknownOption(f"option `{name}` must not be true or false")
        if isinstance(checked[name], float) and math.isnan(checked[name]):
            raise UnknownOption(f"option `{name}` must be a number, not NaN")
    whole = scores()[score]
    for _ in whole.made_of(_with_defaults(whole, checked)):
        pass  # which says what does not go together
    between(rule, checked)  # says which name is no method's
    return checked


def scored(e: Any, method: str, score: str, options: Options) -> F64:
    """[N] or [N, J] what a score gives of evidence. Raises InputError for anything else."""
    values = np.asarray(scores()[score].run(e, **options), np.float64)
    if values.ndim not in (1, 2) or len(values) != len(e.ids):
        raise InputError(
            f"method {method!r} gave scores of shape {list(values.shape)} for {len(e.ids)} examples; a score gives one "
            "number, or one row of numbers, for each of `e.ids`"
        )
    return values


def between(rule: str, options: Options) -> list[str]:
    """The methods that a rule with these options chooses between; [] for a rule that chooses by itself. Raises
    UnknownOption."""
    part = rules()[rule]
    return list(part.between(_with_defaults(part, options))) if part.between is not None else []


def split_options(score: str, rule: str, options: Options) -> tuple[Options, Options]:
    """(those of the score, those of the rule)."""
    of_score, of_rule = _takes(scores()[score].run), _takes(rules()[rule].run)
    return {n: v for n, v in options.items() if n in of_score}, {n: v for n, v in options.items() if n in of_rule}


@dataclass(frozen=True)
class MethodRow:
    """A line of the table of methods."""

    method: str
    what: str
    score: str
    rule: str
    needs: str
    cost: str
    source: str
    options: Options


def table() -> list[MethodRow]:
    """All methods, each with its needs in words and every option at the value it has."""
    return [
        MethodRow(
            name,
            m.what,
            m.score,
            m.rule,
            in_words(m),
            m.cost,
            m.source,
            {n: m.options.get(n, default) for n, (_, default) in options_of(m.score, m.rule).items()},
        )
        for name, m in methods().items()
    ]


def in_words(method: Method) -> str:
    """A method's needs, and the extra of this package that it takes."""
    needs: list[str] = [need for need in ORDER if need in method.needs]
    return ", ".join([*needs, f"extra `{method.extra}`"] if method.extra else needs)
