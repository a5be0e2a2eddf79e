"""What decides gradient rows: the job, and the spec of its feature space."""

from dataclasses import dataclass, replace

from gradsift.datastore import checkpoints, features
from gradsift.datastore.checkpoints import Checkpoint, CheckpointState
from gradsift.datastore.errors import FeatureSpaceMismatch
from gradsift.datastore.identity import Spec
from gradsift.datastore.points import PLAIN
from gradsift.datastore.store import Store
from gradsift.pipelines.features.projectors import projector_spec
from gradsift.pipelines.model.devices import best_device
from gradsift.pipelines.model.encode import LABEL_POLICY
from gradsift.pipelines.model.opened import Loaded
from gradsift.pipelines.model.truncate import stored_name
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import ChosenLayers, Encoding, Features, Lora, Model

EXTRACTOR_VERSION = 3  # 3: `grad_norm` and `module_norms` are of the plain gradient


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
    bare: bool = False  # rows without the signals that other rows of the same examples have

    def as_query(self) -> "GradientJob":
        """The same for target rows."""
        return replace(self, transform=self.features.query_transform, loss=self.features.query_loss)

    def as_plain(self) -> "GradientJob":
        """The same for rows of the plain gradient, which keep no signals; itself where its rows are plain."""
        return self if self.transform == PLAIN else replace(self, transform=PLAIN, bare=True)

    def space(self) -> Spec:
        """Spec of the feature space: every field that decides a row's meaning, and nothing else."""
        f = self.features
        layers = f.layers.model_dump() if isinstance(f.layers, ChosenLayers) else f.layers  # no rows have a rule
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
            "truncation": stored_name(self.encoding.truncation),
            "parameters": {"kind": f.parameters, "layers": layers, "factor_dim": f.factor_dim},
            "transform": self.transform,
            "projector": projector_spec(p.family, p.dim, p.seed, best_device().type, p.per_module),
            "row_dtype": f.row_dtype,
            "signals": None if self.bare else f.signals.model_dump(),
            "extractor": EXTRACTOR_VERSION,
        }


def require_model(store: Store, space_id: int, loaded: Loaded) -> None:
    """Raise FeatureSpaceMismatch where an opened model is not the one that made the rows of a space."""
    made_by = features.space_spec(store, space_id)["model"]
    if made_by != loaded.model_digest:
        raise FeatureSpaceMismatch(
            f"model: the weights or the configuration in {loaded.folder} are not those that made this store's rows "
            f"({loaded.model_digest[:12]} against {made_by[:12]}). Run the recipe again, or put the old files back."
        )


def make_job(work: Work, checkpoint: Checkpoint, state: CheckpointState | None = None) -> GradientJob:
    """The job of a recipe's pool rows at one checkpoint, whose `state` is loaded where it is not given."""
    recipe = work.recipe
    return GradientJob(
        work.model,
        recipe.model,
        recipe.lora,
        recipe.encoding,
        recipe.features,
        recipe.seed,
        checkpoint,
        checkpoints.load(work.store, checkpoint) if state is None else state,
        recipe.features.transform,
        recipe.features.loss,
    )
