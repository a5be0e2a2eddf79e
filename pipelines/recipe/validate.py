"""Sections of a recipe about validation: the trainer, its presets, and the arms."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gradsift.datastore.suggest import suggestion
from gradsift.pipelines.methods.registry import between, methods
from gradsift.pipelines.recipe.mix import Mixing
from gradsift.pipelines.recipe.model import Training
from gradsift.pipelines.recipe.section import Section

RANDOM_ARMS = ("random", "random_balanced", "random_tokens", "random_lengths")
OURS = ("selected", "mixture")  # what the recipe chose; the other arms are there to compare with
REDRAWN = "redrawn"  # the selection again for each seed, from half of the target's rows
ARMS = (*OURS, "full", "human", REDRAWN, *RANDOM_ARMS)
AT_RANDOM = (*RANDOM_ARMS, "human")  # other rows for each seed, whatever the method
DEFAULT_ARMS = ("random", "random_tokens")
TRACKERS = ("trackio", "wandb", "mlflow")
PRESETS: dict[str, dict[str, str | float]] = {
    # open-instruct's scripts for Tülu 2: full fine-tuning, and LoRA (r 64, alpha 16: set `lora` to match).
    "tulu2": {"mode": "full", "lr": 2e-5, "batch_size": 128, "epochs": 2, "warmup_ratio": 0.03},
    "tulu2_lora": {"mode": "lora", "lr": 1e-4, "batch_size": 128, "epochs": 5, "warmup_ratio": 0.03},
    # arXiv 2412.13337 for models of 3 to 7 B: a large batch, no warm-up.
    "secret_recipe": {"mode": "full", "lr": 2e-5, "batch_size": 3840, "epochs": 3, "warmup_ratio": 0.0},
    # LESS's training script (LoRA r 128, alpha 512, dropout 0.1: set `lora` to match).
    "less": {"mode": "lora", "lr": 2e-5, "batch_size": 32, "epochs": 4, "warmup_ratio": 0.03},
}


class QTuning(Section):
    """Q-Tuning's dynamic mode: each batch is scored by a forward pass and pruned before its training step."""

    sample_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of a batch's examples that stay, at least one."""
    token_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of label tokens that stay in examples of the second quadrant."""
    smoothing: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight λ of the neighbours' perplexities."""
    supplement: Literal["minmax", "rank"] = "minmax"
    """How examples beyond the quadrants are added: by |error − uncertainty|, scaled by range or by rank."""
    keep_highest: bool = False
    """Keep the tokens with the highest score (Algorithm 1's words) instead of the lowest."""
    both_above_median: bool = False
    """Prune only tokens that are above the median with their neighbours (a sentence of §3.2)."""
    draft_budget: bool = False
    """Count tokens over the batch, prompts included, as the withdrawn draft code does."""


class LmEval(Section):
    """Benchmarks of lm-evaluation-harness on every trained arm (extra `lm-eval`)."""

    tasks: list[str] = Field(min_length=1)
    include_path: str | None = None
    """Folder of task files of your own."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """At most this many items of each task."""


class GradES(Section):
    """Freeze matrices that have stopped moving (arXiv 2509.01842); saves time, changes every arm."""

    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of the steps before the first freeze."""
    tau: Annotated[float, Field(ge=0)] = 1e-4
    """A matrix is frozen when the summed absolute change of a step is below this."""


class Sft(Training):
    """The trainer of the arms."""

    preset: Literal["tulu2", "tulu2_lora", "secret_recipe", "less"] | None = None
    """Settings by a published recipe, for what is not given here."""
    mode: Literal["lora", "full"] = "lora"
    """The recipe's adapter, or all weights."""
    loss: Literal["ce", "dft"] = "ce"
    """Cross-entropy, or Dynamic Fine-Tuning's (each token weighted by its probability)."""
    optimizer: Literal["adamw", "dog", "dadapt"] = "adamw"
    """`dog` and `dadapt` need no learning rate (extra `lrfree`): does an ordering of arms survive them?"""
    micro_batch_size: Annotated[int, Field(gt=0)] | None = None
    """Rows that go through the model at once; the step is the same, but that `qtuning` prunes each part alone."""
    grades: GradES | None = None

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("preset") in PRESETS:
            return PRESETS[data["preset"]] | data
        return data


class Validate(Sft):
    """Arms × seeds: does the selection lower the target's test loss, and how sure is that?"""

    seeds: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [0, 1, 2])
    """Training seeds; each random arm draws its own examples for each seed."""
    arms: list[str] = Field(default_factory=lambda: list(DEFAULT_ARMS))
    """Beside `base` (no training), `selected` and
    `mixture`: random, random_balanced (equal by source), random_tokens (as many label tokens), random_lengths (same
    lengths), full, human, redrawn (the selection again for each seed, from another half of the target's rows), or any
    method, each with as many examples."""
    human: Mixing | None = None
    """Shares of sources of the arm `human`: what people would have mixed."""
    match: Literal["epochs", "steps"] = "epochs"
    """`steps`: every arm takes the steps that the selection's epochs take, whatever its size."""
    lrs: list[Annotated[float, Field(gt=0)]] = Field(default_factory=list)
    """Learning rates to try instead of `lr`; each arm is reported at its best, by its loss on `val`."""
    encoder: str | None = None
    """Local folder of a sentence encoder, for the arm `embed`."""
    qtuning: QTuning | None = None
    """Adds the arm `qtuning`: the selected examples, each batch pruned by Q-Tuning."""
    test_rows: Annotated[int, Field(gt=0)] | None = None
    """Measure on at most this many test rows."""
    lm_eval: LmEval | None = None
    """Also run the harness's tasks."""
    report_to: list[str] = Field(default_factory=list)
    """Trackers that see each arm train, step by step: trackio, wandb, mlflow. A training is called RECIPE/ARM/SEED
    there; results do not depend on it."""

    @field_validator("report_to")
    @classmethod
    def _known_trackers(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in TRACKERS:
                hint = suggestion(name, TRACKERS, f"known: {', '.join(TRACKERS)}")
                raise ValueError(f"no tracker `{name}`; {hint}")
        return names

    @field_validator("seeds", "lrs", "arms", "report_to")
    @classmethod
    def _distinct(cls, values: list[Any], info: Any) -> list[Any]:
        if (not values and info.field_name == "seeds") or len(set(values)) != len(values):
            raise ValueError(f"{info.field_name} must be distinct{', and at least one' * (info.field_name == 'seeds')}")
        return values

    @model_validator(mode="after")
    def _known_arms(self) -> "Validate":
        for name in self.arms:
            if name not in ARMS and name not in methods():
                hint = suggestion(name, [*ARMS, *methods()], f"known: {', '.join(ARMS)}, and every method")
                raise ValueError(f"no arm `{name}`; {hint}")
        for name in self.arms:
            if name in methods() and between(methods()[name].rule, methods()[name].options):
                raise ValueError(f"`{name}` is no arm: `select` by it, and it is the arm `selected`")
        if "human" in self.arms and self.human is None:
            raise ValueError("the arm `human` needs `human`, the shares of its sources")
        for name in self.arms:
            if name in methods() and "encoder" in methods()[name].needs and self.encoder is None:
                raise ValueError(f"the arm `{name}` needs `encoder`, the folder of a sentence encoder")
        return self
