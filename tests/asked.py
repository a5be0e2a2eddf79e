"""Questions to gradients, as most tests ask them."""

from gradsift.pipelines.query.query import Question, Where, ask


def query_by_id(store, name, k, checkpoint=None, *, everything=False, index=None, opposed=False):
    """Neighbours of a stored example by its gradient, without itself."""
    return ask(store, Question(id=name), k, Where("gradients", checkpoint, everything, index), opposed=opposed)


def query_by_text(store, user, assistant, k, checkpoint=None, *, everything=False, index=None, opposed=False):
    """Neighbours of a chat of one turn by its gradient."""
    where = Where("gradients", checkpoint, everything, index)
    return ask(store, Question(user, answer=assistant), k, where, opposed=opposed)
