"""What scores follow: correlations with stored figures, against a planted one."""

import numpy as np
import pytest

from gradsift.datastore import features, runs
from gradsift.pipelines.select.score_checks import correlates


def signals(store):
    rows = [row for row in runs.last_run(store).result.rows if row.role == "pool"]
    space = rows[-1].space_id
    ids = features.with_rows(store, space, rows[-1].dataset_id)
    return space, ids, features.read_all(store, space, ids)


def test_a_score_by_length_is_found_out(copy):
    space, ids, block = signals(copy)
    lengths = np.asarray(block.signal("n_label_tokens"), float)
    scores = dict(zip(ids, (-lengths).tolist(), strict=True))
    shortest = [ids[k] for k in np.argsort(lengths, kind="stable")[:5]]
    lines = {row["against"]: row for row in correlates(copy, space, scores, shortest)}
    mine = lines["answer length, tokens"]
    assert mine["rank correlation"] == pytest.approx(-1.0)
    assert mine["median of all"] == np.median(lengths)
    assert mine["median of chosen"] == np.median(np.sort(lengths)[:5])


def test_a_constant_score_follows_nothing(copy):
    space, ids, _ = signals(copy)
    lines = correlates(copy, space, dict.fromkeys(ids, 1.0), [])
    assert lines
    assert all(row["rank correlation"] is None and row["median of chosen"] is None for row in lines)


def test_too_few_scores_say_nothing(copy):
    space, ids, _ = signals(copy)
    assert correlates(copy, space, dict.fromkeys(ids[:2], 1.0), ids[:1]) == []
