"""Sections about the model: what it is, how chats become tokens, its adapter and its training."""

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gradsift.pipelines.recipe.section import Section, exactly_one


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
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention as transformers names it; `auto` is `sdpa` where the model has it, else `eager`. `flash_attention_2`
    needs its package and a GPU."""
    date: dt.date = dt.date(2024, 7, 26)
    """Today, to a chat template that asks (`strftime_now`): a prompt must not change overnight."""

    @model_validator(mode="after")
    def _one_place(self) -> "Model":
        exactly_one(self, "path", "hub")
        return self


class Encoding(Section):
    """How a chat becomes tokens and labels."""

    max_length: Annotated[int, Field(ge=8)] = 1024
    """Tokens kept of each row, at most as many as the model has positions; a row that keeps no label token is flagged,
    not used."""
    truncation: Literal["keep_first", "keep_answer"] = "keep_first"
    """What stays of a longer row. `keep_first`: its start, as TRL and LESS do. `keep_answer`: the last answer, whole if
    it fits; the prompt before it loses its middle and keeps its first and last tokens, an eighth of `max_length` at
    least. Trainers that cut rows themselves have no such option: give them `export.labels`."""


class Lora(Section):
    """The adapter, for warm-up, gradients and validation alike."""

    r: Annotated[int, Field(gt=0)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0  # not 16: a recipe that was written and read again is the same
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout during training; gradients are taken without. peft has none for experts and routers."""
    targets: str | list[str] = "all-linear"
    """`all-linear` (but for what peft would break, see [models.md](models.md)) or module names as peft takes them."""


class Training(Section):
    """One AdamW training run: linear warm-up, then linear decay to zero."""

    epochs: Annotated[int, Field(gt=0)] = 2
    batch_size: Annotated[int, Field(gt=0)] = 8
    lr: Annotated[float, Field(gt=0)] = 2e-4
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0

    def deciding(self) -> dict[str, Any]:
        """The fields that decide what is trained, as plain data."""
        return self.model_dump(mode="json")


class Warmup(Training):
    """Training on a random part of the pool that yields the checkpoints: one at the end of each epoch."""

    from_: Annotated[list[str] | None, Field(alias="from", min_length=1)] = None
    """Train nothing, and take checkpoints that TRL or transformers wrote instead: folders of peft LoRA adapters with
    their `optimizer.pt`, or output folders, all of whose `checkpoint-N` are taken. See
    [checkpoints.md](checkpoints.md)."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of the pool to train on, drawn with the recipe's seed."""
    min_examples: Annotated[int, Field(gt=0)] = 64
    """Train on at least this many, if the pool has them."""
    reuse: Literal["auto", "never"] = "auto"
    """`auto` keeps the store's checkpoints while model, adapter, encoding, seed and these settings are the same,
    whatever happened to the pool, so that only new examples cost gradients ([grow.md](grow.md)). `never` trains on each
    new pool, and all its rows are computed again."""
    max_drift: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Advise a new warm-up where rows that came after the last one shift losses or gradient norms of the pool by more
    than this: the largest gap between the two distribution functions."""

    def deciding(self) -> dict[str, Any]:
        """The fields that decide the checkpoints, as plain data."""
        return self.model_dump(mode="json", exclude={"reuse", "max_drift", "from_"})
