"""A run whose pieces never end, on each kind of worker that is named; run as a program: FOLDER KIND…"""

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from gradsift.flows.runners import Workers, workers_of
from gradsift.flows.tasks import in_flow, server_for_children
from gradsift.pipelines.recipe.runner import Runner


def main():
    folder, *kinds = sys.argv[1:]

    def stay(kind):
        def action():
            Path(folder, kind).write_text(str(os.getpid()))
            time.sleep(3_600)

        return task(name=kind, cache_policy=NO_CACHE, persist_result=False)(action)

    def work(_spread):
        with ExitStack() as stack:
            stack.enter_context(server_for_children())
            runners = [(kind, stack.enter_context(workers_of(Runner(kind=kind), 1).runner)) for kind in kinds]
            for future in [runner.submit(stay(kind), {}) for kind, runner in runners]:
                future.wait()

    in_flow("stays", "stays", work, Workers())


if __name__ == "__main__":
    main()
