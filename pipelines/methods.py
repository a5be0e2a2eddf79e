"""Methods by name: each is a score, a rule, and options of both.

`gradsift methods` prints this table. What a method needs: `gradients` (rows of the run), `signals` of the same pass,
`embedding` or `tokens` (signals that can be switched off), `encoder` (a sentence encoder in a local folder), `text`,
`target` (its rows are compared with the target's), or an extra package.
"""

import difflib
import inspect
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gradsift.pipelines.row_rules import RULES
from gradsift.pipelines.scores import SCORES


@dataclass(frozen=True)
class Method:
    """One preset. `cost` is what comes on top of the pass: N pool rows, V target rows, D dims, k picks."""

    line: str
    score: str
    rule: str
    needs: str
    cost: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "less": Method("influence on the target, best subtask", "similarity", "top_k", "gradients, target", "N·J·D",
                   "Xia 2024, 2402.04333"),
    "less_rr": Method("influence on the target, subtasks take turns", "similarity", "round_robin", "gradients, target",
                      "N·J·D", "2602.14696"),
    "mean_cosine": Method("influence on the whole target", "similarity", "top_k", "gradients, target", "N·D",
                          "2402.04333 with one subtask", {"per": "all"}),
    "trak": Method("influence with the Gram matrix inverted", "influence", "top_k", "gradients, target", "N·D² + D³",
                   "Park 2023, 2303.14186"),
    "datainf": Method("influence by DataInf's closed form", "influence", "top_k", "gradients, target", "N·J·D",
                      "Kwon 2024, 2310.00902", {"precondition": "datainf"}),
    "gist": Method("cosine in the span of the target's gradients", "influence", "top_k", "gradients, target", "N·V·D",
                   "2602.18584", {"precondition": "gist"}),
    "tagcos": Method("per cluster, the rows that make up its mean", "none", "omp", "gradients", "N·K·D + k·N·D/K",
                     "Zhang 2024, 2407.15235"),
    "tagcos_released": Method("TAGCOS with the authors' floors and k-means settings", "none", "omp", "gradients",
                              "N·K·D + k·N·D/K", "2003pro/TAGCOS", {"budget_mode": "floor", "iterations": 300}),
    "gio": Method("nearest to the target in KL, the released loop", "none", "gio", "gradients, target",
                  "N·K·D + k·steps·V·D", "Everaert 2024, 2306.11670"),
    "gio_exact": Method("GIO's objective solved by one sort (no coverage)", "none", "gio", "gradients, target",
                        "N·V·D", "the same; see scorers/gio.py", {"mode": "exact", "quantise": 0}),
    "gio_knn": Method("GIO with one neighbour: covers the target", "none", "gio", "gradients, target", "k·N·V",
                      "our departure", {"mode": "knn", "quantise": 0}),
    "qtuning": Method("two quadrants of error and uncertainty, with token masks", "none", "quadrants", "tokens",
                      "N log N", "2509.23873, static mode is ours"),
    "rds": Method("RDS+: hidden states near the target's, queries take turns", "similarity", "round_robin",
                  "embedding, target", "N·V·H", "2503.01807", {"represent": "embedding", "per": "query"}),
    "embed": Method("sentence embeddings near the target's", "similarity", "round_robin", "encoder, target", "N·V·H",
                    "2410.16208", {"represent": "encoder", "per": "query"}),
    "bm25": Method("shared words with the target", "bm25", "round_robin", "text, target, extra `text`", "words",
                   "2410.16208"),
    "dsir": Method("importance of hashed words and pairs, sampled", "dsir", "softmax", "text, target", "words",
                   "Xie 2023, 2302.03169"),
    "bids": Method("influence, the poorest subtask served first", "similarity", "bids", "gradients, target", "N·J·D",
                   "2501.12147; utility UNCONFIRMED"),
    "tsds": Method("transport to the target, near-duplicates share", "none", "tsds", "embedding, target", "N·V·H",
                   "Liu 2024, TSDS"),
    "uot": Method("unbalanced transport from target queries", "similarity", "uot", "gradients, target, extra `ot`",
                  "N·V each step", "2602.14696", {"per": "query"}),
    "grand": Method("longest gradients", "signal", "top_k", "signals", "N", "Paul 2021, 2107.07075",
                    {"signal": "grand"}),
    "el2n": Method("largest error of the predicted distribution", "signal", "top_k", "signals", "N",
                   "Paul 2021, 2107.07075", {"signal": "el2n"}),
    "ppl_top": Method("highest perplexity", "signal", "top_k", "signals", "N", "2503.01807's baseline",
                      {"signal": "perplexity"}),
    "ppl_mid": Method("perplexity around the median", "signal", "window", "signals", "N", "2503.01807's baseline",
                      {"signal": "perplexity"}),
    "ppl_low": Method("lowest perplexity", "signal", "top_k", "signals", "N", "2503.01807's baseline",
                      {"signal": "perplexity", "lowest": True}),
    "entropy": Method("highest mean token entropy", "signal", "top_k", "signals", "N", "uncertainty sampling",
                      {"signal": "entropy"}),
    "ifd": Method("the prompt helps least", "signal", "top_k", "answer_loss", "N", "Li 2024, 2308.12032",
                  {"signal": "ifd"}),
    "length": Method("longest answers", "signal", "top_k", "signals", "N", "Zhao 2024, Long Is More",
                     {"signal": "length"}),
    "loss_drop": Method("loss falls most when the target is learnt", "loss_drop", "top_k", "target, a training run",
                        "2 forward passes", "2605.09404; normaliser UNCONFIRMED"),
    "ccs": Method("all strata of difficulty", "signal", "stratified", "signals", "N log N", "Zheng 2023, CCS",
                  {"signal": "el2n"}),
    "s2l": Method("equal shares of clusters of loss trajectories", "none", "s2l", "signals", "N·K·C", "Yang 2024, S2L"),
    "tive": Method("sources by gradient norm, typical rows inside", "none", "tive", "gradients", "N·D", "TIVE"),
    "kmq": Method("shares of clusters, best influence in each", "similarity", "kmeans_quota", "gradients, target",
                  "N·K·D", "Yu 2024, KMQ"),
    "facility_location": Method("rows that stand for the pool", "none", "facility_location", "embedding", "N·4096·H",
                                "submodular greedy", {"represent": "embedding"}),
    "k_center": Method("rows far from each other", "none", "k_center", "embedding", "k·N·H", "Gonzalez 1985",
                       {"represent": "embedding"}),
    "random": Method("seeded random order", "none", "random", "", "N", "the baseline to beat"),
}  # fmt: skip


class UnknownOption(ValueError):
    """An option that neither the score nor the rule takes, or a value of the wrong kind."""


def _takes(function: Any) -> dict[str, inspect.Parameter]:
    return {n: p for n, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}


def options_of(score: str, rule: str) -> dict[str, tuple[Any, Any]]:
    """{option: (annotation, default)} of a score and a rule together; what both take means the same in both."""
    found: dict[str, tuple[Any, Any]] = {}
    for function in (RULES[rule], SCORES[score]):
        hints = typing.get_type_hints(function)
        found |= {n: (hints[n], p.default) for n, p in _takes(function).items()}
    return found


def checked_options(score: str, rule: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options in the types of their annotations. Raises UnknownOption with a suggestion."""
    known = options_of(score, rule)
    out = {}
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(sorted(known)) or 'none'}"
            raise UnknownOption(f"score `{score}` and rule `{rule}` take no option `{name}`; {hint}")
        try:
            out[name] = TypeAdapter(known[name][0], config=ConfigDict(strict=False)).validate_python(value)
        except ValidationError as error:
            raise UnknownOption(f"option `{name}`: {error.errors()[0]['msg']}") from None
        if isinstance(out[name], float) and math.isnan(out[name]):
            raise UnknownOption(f"option `{name}` must be a number, not NaN")
    return out


def split_options(score: str, rule: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(those of the score, those of the rule)."""
    of_score, of_rule = _takes(SCORES[score]), _takes(RULES[rule])
    return {n: v for n, v in options.items() if n in of_score}, {n: v for n, v in options.items() if n in of_rule}


def as_rows() -> list[dict[str, Any]]:
    """The table of methods as plain data."""
    return [
        {
            "method": name,
            "what": m.line,
            "score": m.score,
            "rule": m.rule,
            "needs": m.needs,
            "cost": m.cost,
            "source": m.source,
            "options": {n: m.options.get(n, d) for n, (_, d) in options_of(m.score, m.rule).items()},
        }
        for name, m in METHODS.items()
    ]
