"""The process that runs tests: its threads and folders, set before torch and Prefect are imported."""

import atexit
import os
import shutil
import tempfile

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
MOST_WORKERS = 8  # each takes about a gigabyte, and more of them do not shorten the longest test
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")  # "" in a run without workers, and in the process that starts them

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # see pipelines/threads.py
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", PREFECT_SERVER_ANALYTICS_ENABLED="false")
os.environ.setdefault(
    "PREFECT_LOGGING_LEVEL", "CRITICAL"
)  # a temporary server stops after pytest has closed its streams
for patience in ("SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "API_REQUEST_TIMEOUT", "SERVER_DATABASE_TIMEOUT"):
    os.environ.setdefault(f"PREFECT_{patience}", "600")  # a busy machine is no failure
if WORKER:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // WORKERS)))
    os.environ["PREFECT_HOME"] += f"/{WORKER}"  # temporary servers of two workers must not meet
else:
    os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="gradsift-prefect-")
    atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)
