"""Sections about gradient rows: parameters, transform, projection, and the signals kept beside them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gradsift.pipelines.recipe.cascade import Cascade
from gradsift.pipelines.recipe.section import Section, Share


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
    """What the same pass keeps beside each row. Loss, entropy, EL2N, the norms of the plain and of the transformed
    gradient, and token counts are always kept."""

    tokens: bool = True
    """NLL and entropy of each label token, float16."""
    embedding: bool = True
    """Position-weighted mean of the last hidden states (RDS+), float16."""
    module_norms: bool = False
    """Norm of the plain gradient of each layer."""
    answer_loss: bool = False
    """Loss of the answer without its prompt, for IFD: one more forward over the label tokens."""

    @classmethod
    def none(cls) -> "Signals":
        """None of those that can be left out."""
        return cls(tokens=False, embedding=False, module_norms=False, answer_loss=False)


class ChosenLayers(Section):
    """Layers of rows chosen from data, once for a warm-up and its targets: neighbouring blocks of the model."""

    choose: Literal["agreement", "fisher", "energy"] = "agreement"
    """What is highest in the kept blocks: the rank correlation of their scores with those of all blocks; the variance
    of target rows between targets over that within; or the share of gradients' squared length."""
    keep: Share = 0.25
    """Share of the model's blocks."""
    probe: Annotated[int, Field(ge=8, le=4096)] = 64
    """Rows of the pool that are looked at, and as many of the targets."""


class Features(Section):
    """What a gradient row is."""

    parameters: Literal["lora", "lora_b", "linear"] = "lora"
    """LoRA's A and B, B alone, or the frozen weights of all linear layers, routers and experts (which needs no
    adapter)."""
    layers: list[str] | ChosenLayers | None = None
    """Shell patterns of weight names to keep, such as `*.layers.2[0-9].*`, or how to choose them; default: all."""
    factor_dim: Annotated[int, Field(ge=8)] | None = None
    """Sketch each side of a layer's gradient to this many dims first; faster for `linear`, less exact. 128 is good."""
    transform: Literal["sgd", "adam_code", "adam_exact"] = "adam_exact"
    """Transform of pool gradients (LESS's released code is `adam_code`)."""
    plain_rows: bool = False
    """Also keep pool rows of the plain gradient, from the same pass: twice the bytes. A method of the recipe that needs
    them (`trak`, `datainf`, `gist`, `tive`) has them kept; set this for methods and queries to come."""
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
    cascade: Cascade | None = None
    """Compute rows only where they can change what is chosen: for methods that choose the rows nearest to a target by
    gradients. A run without it computes the rest."""

    @property
    def patterns(self) -> list[str] | None:
        """Patterns of the weights that rows have; None for all, and as long as they are still to be chosen."""
        return self.layers if isinstance(self.layers, list) else None

    @model_validator(mode="after")
    def _moments_exist(self) -> "Features":
        if self.transform != "sgd" and (self.parameters == "linear" or self.factor_dim):
            what = "`parameters: linear`" if self.parameters == "linear" else "`factor_dim`"
            raise ValueError(f"{what} needs `transform: sgd`: Adam's moments are known for whole LoRA matrices only")
        return self
