"""Work on several threads has the results, the order and the errors of one."""

import numpy as np
import pytest
from running import python

from gradsift.datastore import products, threads
from gradsift.datastore.products import Buffers


@pytest.mark.parametrize("asked", ["1", "3"])
def test_results_come_in_order_and_errors_in_their_place(monkeypatch, asked):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert list(threads.each(lambda k: k * k, range(20))) == [k * k for k in range(20)]
    results = threads.each(lambda k: 1 // (2 - k), range(4))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize(("asked", "count"), [("2", 2), ("0", 1), ("", threads._cores()), ("4,2", threads._cores())])
def test_the_count_is_that_of_openmp_or_of_the_cores(monkeypatch, asked, count):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert threads.count() == count


@pytest.mark.parametrize("rows", [1, 2, 31, 300, 1000])
def test_products_are_the_same_of_any_number_of_threads(monkeypatch, rows):
    random = np.random.default_rng(rows)
    queries = random.standard_normal((2, 1024), np.float32)
    vectors = random.integers(-127, 128, (rows, 1024)).astype(np.int8)
    scale = random.random(rows, np.float32)
    prepared = products.prepare(queries, "int8", "numpy")
    expected = (queries.astype(np.float64) @ vectors.T.astype(np.float64)) * scale
    for asked in "1", "2", "5":
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        found = products.multiply(prepared, vectors, scale, Buffers())
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.05)


FORK = """
import os
from gradsift.datastore import threads
assert list(threads.each(abs, [-1])) == [1]
child = os.fork()
if not child:
    os._exit(list(threads.each(lambda k: k * k, range(5))) != [0, 1, 4, 9, 16])
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_fork_has_threads_of_its_own():
    python("-W", "ignore::DeprecationWarning", "-c", FORK, OMP_NUM_THREADS="2")
