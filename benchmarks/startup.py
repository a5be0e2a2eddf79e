"""What Prefect adds to a run with little to do: `--no-prefect`, a temporary server, and a server that is up.

    python benchmarks/startup.py [--rounds 5]

The recipe is run once, so that nothing is left to compute; then the three take turns, and medians of wall seconds are
printed as JSON.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROWS = 20
PREFECT = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port"]


def seconds(command, **variables):
    """Wall seconds of a command that must succeed."""
    begun = time.perf_counter()
    subprocess.run(command, env=os.environ | variables, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.perf_counter() - begun


def server(home):
    """A Prefect server in a folder: its process and its API's URL, once it answers."""
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        port = there.getsockname()[1]
    environment = os.environ | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    process = subprocess.Popen(
        [*PREFECT, str(port)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/api"
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return process, url


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lines = (json.dumps({"prompt": f"What is {n} + {n}?", "completion": f"It is {2 * n}."}) for n in range(ROWS))
        (root / "pool.jsonl").write_text("\n".join(lines))
        (root / "recipe.yaml").write_text("name: sums\npool: [{path: pool.jsonl}]\nmix: {examples: 10}\n")
        command = [sys.executable, "-m", "gradsift", "run", str(root / "recipe.yaml"), "--store", str(root / "store")]
        seconds([*command, "--no-prefect"])
        process, url = server(root / "server")
        try:
            ways = {
                "no_prefect": lambda: seconds([*command, "--no-prefect"]),
                "temporary_server": lambda: seconds(command, PREFECT_HOME=str(root / "home")),
                "server_up": lambda: seconds(command, PREFECT_HOME=str(root / "home"), PREFECT_API_URL=url),
            }
            taken = {name: [] for name in ways}
            for _ in range(rounds):
                for name, way in ways.items():
                    taken[name].append(way())
        finally:
            process.terminate()
            process.wait()
    medians = {name: round(statistics.median(values), 2) for name, values in taken.items()}
    added = {f"{name}_adds": round(medians[name] - medians["no_prefect"], 2) for name in list(medians)[1:]}
    print(json.dumps({"rounds": rounds, **medians, **added}))


if __name__ == "__main__":
    main()
