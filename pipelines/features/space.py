"""What decides gradient rows: the job, and the spec of its feature space."""

from dataclasses import dataclass, replace

from gradsift.datastore import checkpoints
from gradsift.datastore.checkpoints import Checkpoint, CheckpointState
from gradsift.datastore.identity import Spec
from gradsift.pipelines.features.projectors import projector_spec
from gradsift.pipelines.model.encode import LABEL_POLICY, TRUNCATION
from gradsift.pipelines.model.load import Loaded, best_device
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Encoding, Features, Lora, Model

EXTRACTOR_VERSION = 2


@dataclass(frozen=True)
class GradientJob:
    """All that decides rows: model, adapter, encoding and features of a recipe, at one checkpoint."""

    loaded: Loaded
    model: Model
    lora: Lora
    encoding: Encoding
    features: Features
    seed: int
    checkpoint: Checkpoint
    state: CheckpointState
    transform: str
    loss: str = "ce"

    def as_query(self) -> "GradientJob":
        """The same for target rows."""
        return replace(self, transform=self.features.query_transform, loss=self.features.query_loss)

    def space(self) -> Spec:
        """Spec of the feature space: every field that decides a row's meaning, and nothing else."""
        f = self.features
        p = f.projector
        return {
            "model": self.loaded.model_digest,
            "model_dtype": self.loaded.dtype,
            "tokenizer": self.loaded.tokenizer_digest,
            "adapter": self.lora.model_dump() if self.state.adapter else None,
            "checkpoint": self.checkpoint.digest,
            "loss": f"{self.loss}-mean-over-label-tokens",
            "labels": LABEL_POLICY,
            "max_length": self.encoding.max_length,
            "truncation": TRUNCATION,
            "parameters": {"kind": f.parameters, "layers": f.layers, "factor_dim": f.factor_dim},
            "transform": self.transform,
            "projector": projector_spec(p.family, p.dim, p.seed, best_device().type, p.per_module),
            "row_dtype": f.row_dtype,
            "signals": f.signals.model_dump(),
            "extractor": EXTRACTOR_VERSION,
        }


def make_job(work: Work, checkpoint: Checkpoint) -> GradientJob:
    """The job of a recipe's pool rows at one checkpoint."""
    recipe = work.recipe
    return GradientJob(
        work.model,
        recipe.model,
        recipe.lora,
        recipe.encoding,
        recipe.features,
        recipe.seed,
        checkpoint,
        checkpoints.load(work.store, checkpoint),
        recipe.features.transform,
        recipe.features.loss,
    )
