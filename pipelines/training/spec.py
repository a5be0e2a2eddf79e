"""What decides a training run, as the fields that go into fingerprints."""

from gradsift.datastore.identity import Spec
from gradsift.pipelines.model.encode import LABEL_POLICY
from gradsift.pipelines.model.truncate import stored_name
from gradsift.pipelines.model.work import Work

TRAINER_VERSION = 1
SFT_VERSION = 1  # of the trainer of arms (training/sft.py)


def training_spec(work: Work) -> Spec:
    """Fields that decide any training run of a recipe, apart from its data, seed and hyper-parameters."""
    return {
        "model": work.model.model_digest,
        "model_dtype": work.model.dtype,
        "tokenizer": work.model.tokenizer_digest,
        "adapter": work.recipe.lora.model_dump(),
        "labels": LABEL_POLICY,
        "max_length": work.recipe.encoding.max_length,
        "truncation": stored_name(work.recipe.encoding.truncation),
        "trainer": TRAINER_VERSION,
    }
