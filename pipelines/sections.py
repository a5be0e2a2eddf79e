"""Sections of a recipe: where rows come from, the model and its training, the gradient rows, how to select, validation.

Field docstrings are the reference (docs/make_reference.py prints them).
"""

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gradsift.pipelines.methods.registry import checked_options, methods, options_of, rules, scores

Name = Annotated[str, Field(pattern=r"^[a-z0-9_][a-z0-9_-]{0,47}$")]
Share = Annotated[float, Field(gt=0, le=1)]


Metric = Literal["loss", "exact", "number", "choice", "f1"]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, docstrings become descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


PATH_FIELDS = ("path", "encoder")
BUDGETS = ("examples", "fraction", "label_tokens", "tokens")


def _exactly_one(section: Section, one: str, other: str) -> None:
    if (getattr(section, one) is None) == (getattr(section, other) is None):
        raise ValueError(f"give exactly one of `{one}` and `{other}`")


class Source(Section):
    """Where examples are read from."""

    path: str | None = None
    """A file (.jsonl, .json, .parquet, also .gz and .zst), a folder of such files, or a saved `datasets` folder."""
    hub: str | None = None
    """A Hugging Face dataset name (needs network, or the local cache)."""
    config: str | None = None
    """Configuration of the Hugging Face dataset."""
    split: str = "train"
    """Split of the Hugging Face dataset."""
    name: str | None = None
    """Source name of its rows; default: the `source_field` of each row, else the file's or dataset's name."""
    source_field: str | None = "source"
    """Row field that holds the source name."""
    licence: str | None = None
    """Licence of its rows; default: the `licence` or `license` field of each row."""
    shape: Literal["auto", "messages", "conversations", "prompt_completion", "alpaca"] = "auto"
    """How a row holds its chat; `auto` looks at the keys."""
    mapping: dict[str, str] = Field(default_factory=dict)
    """Rename row fields first: {our field: their field}, e.g. {instruction: question, output: answer}."""
    subtask_field: str | None = "subtask"
    """Row field that names the subtask (targets only)."""
    rows: Annotated[int, Field(gt=0)] | None = None
    """Read at most this many good rows, a seeded random sample of them."""

    @model_validator(mode="after")
    def _one_place(self) -> "Source":
        _exactly_one(self, "path", "hub")
        return self


class Target(Section):
    """A capability, embodied by a few examples."""

    val: Source
    """What a selection may look at."""
    test: Source | None = None
    """Held-out rows for validation only."""
    metric: Metric = "loss"
    """Checks generated answers of test rows too: `exact` text, last `number`, `choice` letter, or word `f1`."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 128
    """Of an answer that is generated for the metric."""
    own_sources: list[str] = Field(default_factory=list)
    """Pool sources known to teach it: reports give their share in each selection. Never used to select."""


class Model(Section):
    """The language model to fine-tune."""

    path: str | None = None
    """Local folder of a Hugging Face causal language model."""
    hub: str | None = None
    """Hub id of one."""
    revision: str | None = None
    """Hub revision."""
    gguf_file: str | None = None
    """GGUF file inside `path` (or the hub repository) to read the weights from."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the frozen weights and activations; `auto` is bfloat16 on a GPU that has it, else float32. Stored rows
    have a dtype of their own."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention as transformers names it; `flash_attention_2` needs its package and a GPU."""

    @model_validator(mode="after")
    def _one_place(self) -> "Model":
        _exactly_one(self, "path", "hub")
        return self


class Encoding(Section):
    """How a chat becomes tokens and labels."""

    max_length: Annotated[int, Field(ge=8)] = 1024
    """Tokens kept of each row, from the start; a row that keeps no label token is flagged, not used."""


class Lora(Section):
    """The adapter, for warm-up, gradients and validation alike."""

    r: Annotated[int, Field(gt=0)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout during training; gradients are taken without."""
    targets: str | list[str] = "all-linear"
    """`all-linear` or module names as peft takes them."""


class Training(Section):
    """One AdamW training run: linear warm-up, then linear decay to zero."""

    epochs: Annotated[int, Field(gt=0)] = 2
    batch_size: Annotated[int, Field(gt=0)] = 8
    lr: Annotated[float, Field(gt=0)] = 2e-4
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0


class Warmup(Training):
    """Training on a random part of the pool that yields the checkpoints: one at the end of each epoch."""

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of the pool to train on, drawn with the recipe's seed."""
    min_examples: Annotated[int, Field(gt=0)] = 64
    """Train on at least this many, if the pool has them."""


class Projector(Section):
    """The random projection of gradients."""

    family: Literal["fold", "rademacher", "gaussian", "srht", "dct", "traker", "traker_cuda"] = "fold"
    """`fold` is as faithful as the others and nearly free; the rest are for comparison and parity."""
    dim: Annotated[int, Field(ge=64, multiple_of=8)] = 4096
    """Dims of a row. The error of a cosine is 1/√dim at most."""
    seed: Annotated[int, Field(ge=0)] = 0
    per_module: bool = False
    """A sketch of `dim` dims for each layer, side by side, instead of one for all."""

    @model_validator(mode="after")
    def _sketches_only(self) -> "Projector":
        if self.per_module and self.family.startswith("traker"):
            raise ValueError("`per_module` needs another family than traker's")
        return self


class Signals(Section):
    """What the same pass keeps beside each row. Loss, entropy, EL2N, gradient norm and token counts are always kept."""

    tokens: bool = True
    """NLL and entropy of each label token, float16."""
    embedding: bool = True
    """Position-weighted mean of the last hidden states (RDS+), float16."""
    module_norms: bool = False
    """Gradient norm of each layer."""
    answer_loss: bool = False
    """Loss of the answer without its prompt, for IFD: one more forward over the label tokens."""


class Features(Section):
    """What a gradient row is."""

    parameters: Literal["lora", "lora_b", "linear"] = "lora"
    """LoRA's A and B, B alone, or the frozen weights of all linear layers (which needs no adapter)."""
    layers: list[str] | None = None
    """Shell patterns of weight names to keep, such as `*.layers.2[0-9].*`; default: all."""
    factor_dim: Annotated[int, Field(ge=8)] | None = None
    """Sketch each side of a layer's gradient to this many dims first; faster for `linear`, less exact. 128 is good."""
    transform: Literal["sgd", "adam_code", "adam_exact"] = "adam_exact"
    """Transform of pool gradients (LESS's released code is `adam_code`)."""
    query_transform: Literal["sgd"] = "sgd"
    """Transform of target gradients; LESS compares with plain gradients."""
    loss: Literal["ce", "dft"] = "ce"
    """Loss of pool gradients: the one that training will use (`validate.loss`). `dft`: Dynamic Fine-Tuning's."""
    query_loss: Literal["ce", "dft"] = "ce"
    """Loss of target gradients: the one that should fall."""
    projector: Projector = Projector()
    row_dtype: Literal["int8", "int4", "f16"] = "int8"
    """Stored dtype of a row: dim, dim/2 or 2·dim bytes."""
    signals: Signals = Signals()
    batch_tokens: Annotated[int, Field(gt=0)] = 2048
    """Tokens (with padding) of a batch; does not change the rows beyond rounding. Halved where memory runs out."""
    unit_rows: Annotated[int, Field(gt=0)] = 256
    """Rows of one unit of work: what a crash can cost."""

    @model_validator(mode="after")
    def _moments_exist(self) -> "Features":
        if self.transform != "sgd" and (self.parameters == "linear" or self.factor_dim):
            what = "`parameters: linear`" if self.parameters == "linear" else "`factor_dim`"
            raise ValueError(f"{what} needs `transform: sgd`: Adam's moments are known for whole LoRA matrices only")
        return self


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
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"
                raise ValueError(f"no {what} `{name}`; {hint}")
        score, rule, options = self.parts()
        checked_options(score, rule, options)
        if options.get("represent") == "encoder" and self.encoder is None:
            raise ValueError("`represent: encoder` needs `encoder`, the folder of a sentence encoder")
        return self

    def parts(self) -> tuple[str, str, dict[str, Any]]:
        """(score, rule, options): the method's, with what is given here instead. The method's options go where neither
        the score nor the rule chosen here takes them."""
        method = methods()[self.method]
        score, rule = self.score or method.score, self.rule or method.rule
        known = options_of(score, rule)
        return score, rule, {n: v for n, v in method.options.items() if n in known} | self.options


class Select(Method):
    """How much to choose, and how."""

    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the pool's usable examples."""
    examples: Annotated[int, Field(gt=0)] | None = None
    """Or a number of examples."""
    label_tokens: Annotated[int, Field(gt=0)] | None = None
    """Or a number of label tokens, not to be exceeded."""

    @model_validator(mode="after")
    def _one_budget(self) -> "Select":
        given = [name for name in ("fraction", "examples", "label_tokens") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of `fraction`, `examples` and `label_tokens`")
        return self
