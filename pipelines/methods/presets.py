"""Methods by name: each is a score, a rule, and options of both. `gradsift methods` prints this table."""

from gradsift.pipelines.methods.registry import Method, preset

PRESETS = {
    "less": Method("influence on the target, best subtask", "similarity", "top_k", "N·J·D", "Xia 2024, 2402.04333"),
    "less_rr": Method(
        "influence on the target, subtasks take turns", "similarity", "round_robin", "N·J·D", "2602.14696"
    ),
    "mean_cosine": Method(
        "influence on the whole target", "similarity", "top_k", "N·D", "2402.04333 with one subtask", {"per": "all"}
    ),
    "trak": Method(
        "influence with the Gram matrix inverted", "influence", "top_k", "N·D² + D³", "Park 2023, 2303.14186"
    ),
    "trak_damped": Method(
        "the same with a ridge of 30: predicts best what retraining does",
        "influence",
        "top_k",
        "N·D² + D³",
        "docs/results.md",
        {"ridge": 30.0},
    ),
    "tracin": Method(
        "products of plain gradients with their length",
        "influence",
        "top_k",
        "N·J·D",
        "Pruthi 2020, 2002.08484",
        {"precondition": "none"},
    ),
    "datainf": Method(
        "influence by DataInf's closed form",
        "influence",
        "top_k",
        "N·J·D",
        "Kwon 2024, 2310.00902",
        {"precondition": "datainf"},
    ),
    "gist": Method(
        "cosine in the span of the target's gradients",
        "influence",
        "top_k",
        "N·V·D",
        "2602.18584",
        {"precondition": "gist"},
    ),
    "dvemb": Method(
        "influence on the model at the end, after all later steps",
        "dvemb",
        "top_k",
        "N·D² + steps·J·D²",
        "Wang 2025, 2412.09538",
    ),
    "distillation": Method(
        "influence on the whole target, with weights",
        "similarity",
        "distillation",
        "N·D",
        "Nikdan 2025, 2505.19051, first order",
        {"per": "all"},
    ),
    "tagcos": Method(
        "per cluster, the rows that make up its mean", "none", "omp", "N·K·D + k·N·D/K", "Zhang 2024, 2407.15235"
    ),
    "tagcos_released": Method(
        "TAGCOS with the authors' floors and k-means settings",
        "none",
        "omp",
        "N·K·D + k·N·D/K",
        "2003pro/TAGCOS",
        {"budget_mode": "floor", "iterations": 300},
    ),
    "gio": Method(
        "nearest to the target in KL, the released loop",
        "none",
        "gio",
        "N·K·D + k·steps·V·D",
        "Everaert 2024, 2306.11670",
    ),
    "gio_exact": Method(
        "GIO's objective solved by one sort (no coverage)",
        "none",
        "gio",
        "N·V·D",
        "the same; see scorers/gio.py",
        {"mode": "exact", "quantise": 0},
    ),
    "gio_knn": Method(
        "GIO with one neighbour: covers the target",
        "none",
        "gio",
        "k·N·V",
        "our departure",
        {"mode": "knn", "quantise": 0},
    ),
    "gip": Method(
        "rows in whose span the target's rows lie, one by one",
        "none",
        "gip",
        "k·N·(D + V)",
        "2603.13790; details UNCONFIRMED",
    ),
    "qtuning": Method(
        "two quadrants of error and uncertainty, with token masks",
        "none",
        "quadrants",
        "N log N",
        "2509.23873, static mode is ours",
    ),
    "rds": Method(
        "RDS+: hidden states near the target's, queries take turns",
        "similarity",
        "round_robin",
        "N·V·H",
        "2503.01807",
        {"represent": "embedding", "per": "query"},
    ),
    "embed": Method(
        "sentence embeddings near the target's",
        "similarity",
        "round_robin",
        "N·V·H",
        "2410.16208",
        {"represent": "encoder", "per": "query"},
    ),
    "bm25": Method("shared words with the target", "bm25", "round_robin", "words", "2410.16208", extra="text"),
    "dsir": Method("importance of hashed words and pairs, sampled", "dsir", "softmax", "words", "Xie 2023, 2302.03169"),
    "bids": Method(
        "influence, the poorest subtask served first", "similarity", "bids", "N·J·D", "2501.12147; utility UNCONFIRMED"
    ),
    "tsds": Method(
        "transport to the target, near-duplicates share", "none", "tsds", "N·V·H + N²·H at most", "Liu 2024, TSDS"
    ),
    "uot": Method(
        "unbalanced transport from target queries",
        "similarity",
        "uot",
        "N·V each step",
        "2602.14696",
        {"per": "query"},
        extra="ot",
    ),
    "grand": Method("longest gradients", "signal", "top_k", "N", "Paul 2021, 2107.07075", {"signal": "grand"}),
    "el2n": Method(
        "largest error of the predicted distribution",
        "signal",
        "top_k",
        "N",
        "Paul 2021, 2107.07075",
        {"signal": "el2n"},
    ),
    "ppl_top": Method("highest perplexity", "signal", "top_k", "N", "2503.01807's baseline", {"signal": "perplexity"}),
    "ppl_mid": Method(
        "perplexity around the median", "signal", "window", "N", "2503.01807's baseline", {"signal": "perplexity"}
    ),
    "ppl_low": Method(
        "lowest perplexity", "signal", "top_k", "N", "2503.01807's baseline", {"signal": "perplexity", "lowest": True}
    ),
    "entropy": Method(
        "highest mean token entropy", "signal", "top_k", "N", "uncertainty sampling", {"signal": "entropy"}
    ),
    "ifd": Method("the prompt helps least", "signal", "top_k", "N", "Li 2024, 2308.12032", {"signal": "ifd"}),
    "length": Method("longest answers", "signal", "top_k", "N", "Zhao 2024, Long Is More", {"signal": "length"}),
    "loss_drop": Method(
        "loss falls most when the target is learnt",
        "loss_drop",
        "top_k",
        "2 forward passes",
        "2605.09404; normaliser UNCONFIRMED",
    ),
    "ccs": Method(
        "all strata of difficulty but the hardest 30 %",
        "signal",
        "ccs",
        "N log N",
        "Zheng 2023, CCS",
        {"signal": "el2n"},
    ),
    "ccs_adapt": Method(
        "strata of difficulty between two percentiles, the hardest first",
        "signal",
        "stratified",
        "N log N",
        "adymaharana/adapt-inf",
        {"signal": "el2n"},
    ),
    "s2l": Method("equal shares of clusters of loss trajectories", "none", "s2l", "N·K·C", "Yang 2024, S2L"),
    "tive": Method("sources by gradient norm, typical rows inside", "none", "tive", "N·D", "TIVE"),
    "kmq": Method(
        "equal shares of clusters, drawn by exp(influence) in each",
        "similarity",
        "kmeans_quota",
        "N·K·D",
        "Yu 2024, KMQ",
        {"shares": "even", "inside": "softmax"},
    ),
    "facility_location": Method(
        "rows that stand for the pool",
        "none",
        "facility_location",
        "N·4096·H",
        "submodular greedy",
        {"represent": "embedding"},
    ),
    "k_center": Method(
        "rows far from each other", "none", "k_center", "k·N·H", "Gonzalez 1985", {"represent": "embedding"}
    ),
    "fused": Method(
        "ranks by several scores added up: by default influence and hidden states",
        "fused",
        "top_k",
        "that of its members, N log N each",
        "Cormack 2009, RRF",
    ),
    "auto": Method(
        "what the best of several methods chooses, by short trainings",
        "none",
        "portfolio",
        "short trainings",
        "successive halving, 1502.07943",
    ),
    "random": Method("seeded random order", "none", "random", "N", "the baseline to beat"),
}

for _name, _method in PRESETS.items():
    preset(_name, _method)
