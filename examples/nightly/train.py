"""Curate, then train on what is new: two Prefect flows for the nightly example.

    python examples/nightly/train.py nights/recipe.yaml --store nights/store --model nights/model --out nights/trained

`train` fine-tunes a model with TRL on one version of a mixture; `curate_and_train` runs a recipe, and then `train` on
the version that its mixture has now. What was trained is not trained again: a night that changes nothing trains
nothing, and a training that failed is made up for by the next night.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

import gradsift

ON_CPU = ("--use_cpu", "true", "--bf16", "false")


@flow(name="train", flow_run_name="train {version}", persist_result=False)
def train(version: str, store: str, model: str, out: str, options: Sequence[str] = ()) -> str:
    """Fine-tune a model on one version of a mixture, with the config of its export; returns the new model's folder.

    It is trained on a checkout, not on the export of the last run: a night that ends meanwhile replaces that. What is
    there already is not trained again.

    Parameters
    ----------
    version
        NAME@NUMBER of the mixture.
    store
        Folder of the store.
    model
        What to fine-tune.
    out
        Where the models of all versions go, each in a folder of its version's name.
    options
        More words for `trl sft`.
    """
    made = Path(out).absolute() / version
    if made.exists():
        return str(made)
    rows = gradsift.checkout(version, store=store).folder
    where = () if torch.cuda.is_available() else ON_CPU
    begun = made.with_name(f"{version}.part")  # a model that has its name is whole
    words = ["--model_name_or_path", str(Path(model).absolute()), "--output_dir", str(begun), *where, *options]
    task(name="trl sft", cache_policy=NO_CACHE, persist_result=False)(_sft)(Path(rows), words)
    begun.rename(made)
    return str(made)


def _sft(rows: Path, words: Sequence[str]) -> None:
    """TRL reads the data files that its config names from inside their folder."""
    trl = Path(sys.executable).with_name("trl")
    subprocess.run([trl, "sft", "--config", "trl.yaml", "--report_to", "none", *words], cwd=rows, check=True)


@flow(name="curate and train", persist_result=False)
def curate_and_train(recipe: str, store: str, model: str, out: str, options: Sequence[str] = ()) -> str:
    """Run a recipe, and train on its mixture where that has a new version; returns the model's folder."""
    result = gradsift.run(recipe, store, prefect=True)
    (version,) = (one.version for one in result.versions if one.kind == "mixture")
    folder: str = train(version, store, model, out, options)
    return folder


def main() -> None:
    """The command."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("recipe")
    for name in ("--store", "--model", "--out"):
        words.add_argument(name, required=True)
    chosen, options = words.parse_known_args()
    sys.stdout.write(f"{curate_and_train(chosen.recipe, chosen.store, chosen.model, chosen.out, options)}\n")


if __name__ == "__main__":
    main()
