"""Mixing and exporting a large pool: seconds by stage, peak memory, and the same after being killed on the way.

    python benchmarks/mixing.py --rows 1000000 --out benchmarks/results/mixing.json

Generates chats of eight sources (sizes 1 : 2 : 3 … , 60 to 400 words, one in fifty a near-duplicate), then runs the
recipe in a process of its own, once through and once killed after each of `--kill` seconds and called again. Reports
the digests of both exports, which must agree.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

SOURCES = 8
WORDS = [
    f"{a}{b}{c}" for a in ("ka", "lo", "mi", "ne", "su", "ta") for b in "aeiou" for c in ("n", "r", "s", "t", "ld")
]
CODE = (
    "import json, resource, sys\n"
    "from gradsift.__main__ import main\n"
    "sys.argv = ['gradsift', 'run', 'recipe.yaml', '--no-prefect', '--json']\n"
    "try:\n    main()\nfinally:\n"
    "    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss), file=sys.stderr)\n"
)


def generate(path: Path, rows: int, seed: int = 0) -> None:
    """Write the pool; about a kilobyte a row."""
    rng = random.Random(seed)
    shares = [k + 1 for k in range(SOURCES)]
    last = ("", "")
    with path.open("w", encoding="utf-8") as handle:
        for _ in range(rows):
            source = rng.choices(range(SOURCES), shares)[0]
            text = " ".join(rng.choices(WORDS, k=rng.randrange(30, 200)))
            answer = " ".join(rng.choices(WORDS, k=rng.randrange(30, 200)))
            if last[0] and rng.random() < 0.02:
                text, answer = f"{last[0]} {rng.choice(WORDS)}", last[1]
            last = (text, answer)
            row = {"prompt": text, "completion": answer, "source": f"source-{source}", "licence": "cc0-1.0"}
            handle.write(json.dumps(row) + "\n")


def recipe(dedup: bool) -> dict:
    """Eight tenths of the pool, sources by temperature, rows of small ones up to twice."""
    return {
        "name": "large",
        "pool": [{"path": "pool.jsonl"}],
        **({"dedup": {}} if dedup else {}),
        "mix": {"fraction": 0.8, "weights": "temperature", "temperature": 1.5, "repeat": 2},
    }


def run(folder: Path, kill_after: float | None = None) -> dict | None:
    """One call; None when it was killed."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "2"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        printed, logged = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return None
    if process.returncode:
        raise SystemExit(logged[-2000:])
    result = json.loads(printed)
    stages = {row["stage"]: row["seconds"] for row in result["stages"]}
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "stages": stages,
        "peak_gib": round(int(logged.strip().splitlines()[-1]) / 2**20, 2),
        "rows": result["mixtures"][0]["rows"],
        "pool": result["ingest"]["pool"]["examples"],
        "used": result["ingest"]["pool"]["used"],
        "left_out": {row["reason"]: row["examples"] for row in result["ingest"]["pool"]["left_out"]},
        "progress_lines": logged.count("\n") - 1,
        "export_digest": json.loads((Path(folder) / "store/exports/large/manifest.json").read_text("utf-8"))["digest"],
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dedup", action="store_true", help="also look for near-duplicates")
    parser.add_argument("--kill", type=float, nargs="*", default=[15, 40, 70, 100], help="seconds after which to kill")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path)
    chosen = parser.parse_args()
    folder = chosen.work or Path(tempfile.mkdtemp(prefix="gradsift-mixing-"))
    folder.mkdir(parents=True, exist_ok=True)
    pool = folder / "pool.jsonl"
    if not pool.exists():
        generate(pool, chosen.rows)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(chosen.dedup)), "utf-8")
    document: dict = {"rows": chosen.rows, "pool_bytes": pool.stat().st_size, "dedup": chosen.dedup}
    for name, kills in (("through", []), ("killed", chosen.kill)):
        shutil.rmtree(folder / "store", ignore_errors=True)
        calls = [run(folder, seconds) for seconds in kills]
        document[name] = (run(folder) or {}) | {"calls_killed": sum(c is None for c in calls)}
        print(name, json.dumps(document[name], indent=1), flush=True)
    document["same_digest"] = document["through"]["export_digest"] == document["killed"]["export_digest"]
    document["children_peak_gib"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2)
    if chosen.out:
        chosen.out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print("same digest:", document["same_digest"])


if __name__ == "__main__":
    main()
