"""The explorer's map of a large pool in a browser: seconds to the first picture, and to a picture after a move.

    python benchmarks/explorer.py [--rows 100000] [--dim 1024] [--keep FOLDER] [--times 5]

The store is that of benchmarks/query.py: a small real run, filled up with generated rows. `gradsift explore` runs in a
process of its own; headless Chromium opens /map. `laid out`: from the first request, with no places kept; `started
again`: a new server, places kept on the host, its first request; `open again`: another page of the same server. All
from navigation to the first drawn frame, as the page notes it. `frame`: the time of one picture while the view is
dragged and zoomed, points and overlay; `points`: what is sent.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import query
from measure import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import browser
from running import start

SIZE = {"width": 1280, "height": 800}
MOVES = 60
DRAWN = "performance.getEntriesByName('drawn')[0]?.startTime ?? null"
FRAMES = "performance.getEntriesByName('frame').map(one => one.duration)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--keep", type=Path, help="the store's folder, made if it is not there, and kept")
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    with query.place(args.keep) as folder, browser.launched() as chromium:
        if not (folder / "store").exists():
            query.make(folder, args.rows, args.dim, adam=False)
        print(json.dumps(machine()), flush=True)
        for path in (folder / "store" / "kept").glob("map*"):
            path.unlink()
        with exploring(folder / "store") as url:
            print(f"laid out: {first_picture(chromium, url)[0]:.2f} s", flush=True)
        again = []
        for _ in range(args.times):
            with exploring(folder / "store") as url:
                again.append(first_picture(chromium, url)[0])
        print(f"started again: {told(again)}", flush=True)
        with exploring(folder / "store") as url:
            first_picture(chromium, url)
            opened = [first_picture(chromium, url, moves=True) for _ in range(args.times)]
        print(f"open again: {told([seconds for seconds, _, _ in opened])}")
        frames = sorted(frame for _, of_one, _ in opened for frame in of_one)
        print(f"frame: median {statistics.median(frames):.1f} ms, 95 % below {frames[int(len(frames) * 0.95)]:.1f} ms")
        print(f"points: {opened[0][2]:,} bytes")


def told(seconds: list[float]) -> str:
    return f"median {statistics.median(seconds):.2f} s, the most {max(seconds):.2f} s"


@contextmanager
def exploring(store: Path) -> Iterator[str]:
    """The URL of the page of a server of its own."""
    process = start("-m", "gradsift", "explore", "--store", store, "--port", "0", "--no-browser")
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate()


def first_picture(chromium: Any, url: str, *, moves: bool = False) -> tuple[float, list[float], int]:
    """(seconds from navigation to the first drawn frame, milliseconds of frames, bytes of places and shades)."""
    context = chromium.new_context(viewport=SIZE)
    page = context.new_page()
    page.goto(f"{url}map")
    while (drawn := page.evaluate(DRAWN)) is None:
        time.sleep(0.01)
    frames = []
    if moves:
        page.wait_for_selector("#rows > li")
        page.evaluate("performance.clearMeasures()")
        page.mouse.move(600, 400)
        page.mouse.down()
        for k in range(MOVES):
            page.mouse.move(600 + 3 * k, 400 + 2 * k)
        page.mouse.up()
        for k in range(MOVES):
            page.mouse.wheel(0, -40 if k % 20 < 14 else 80)
        page.wait_for_timeout(300)
        frames = page.evaluate(FRAMES)
    sent = page.evaluate(
        "performance.getEntriesByType('resource').filter(one => /map\\/(points|shade)/.test(one.name))"
        ".reduce((sum, one) => sum + one.decodedBodySize, 0)"
    )
    context.close()
    return drawn / 1000, frames, sent


if __name__ == "__main__":
    main()
