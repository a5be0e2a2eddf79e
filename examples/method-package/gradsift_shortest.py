"""`shortest`: the examples whose answers have the fewest words.

    score(z) = −Σ_{assistant turns of z} words

A method needs one function and one decorator. What it `needs` decides what a run computes: this one reads texts, so a
recipe with `select: {method: shortest}` runs without a model.
"""

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import examples
from gradsift.pipelines.methods.evidence import Evidence
from gradsift.pipelines.methods.registry import method


@method("shortest", "shortest answers", needs=("texts",), cost="words", source="an example of a package")
def shortest(e: Evidence, *, longest: int = 1_000_000) -> NDArray[np.float64]:
    """[N] minus the words that the assistant says; an answer above `longest` words counts as that long."""
    chats = examples.get_messages(e.store, e.ids)
    words = [sum(len(turn["content"].split()) for turn in chats[i] if turn["role"] == "assistant") for i in e.ids]
    return -np.minimum(np.array(words, np.float64), longest)
