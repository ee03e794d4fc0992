"""Compare the time of a grid of 200 probes (4 shots x 5 seeds x 10 values of l2) with one extraction of the features
that they share, in one process.

    scripts/bench probe_grid DATASET [--backbone BACKBONE] [--crop PIXELS]

DATASET is what finetune takes, with 25 training images a class.
"""

import argparse
import os
import tempfile
import time

from hyperrule.benchmark.cells import planned_cells
from hyperrule.benchmark.engines.probing import Probing
from hyperrule.benchmark.grid import Grid
from hyperrule.support.progress import Reporter

SHOTS, SEEDS, L2 = [1, 5, 10, 25], 5, [2.0**exponent for exponent in range(3, 13)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", metavar="DATASET")
    parser.add_argument("--backbone", default="bit-r26x0.5", metavar="BACKBONE")
    parser.add_argument("--crop", type=int, default=128, metavar="PIXELS")
    args = parser.parse_args()
    grid = Grid.model_validate(
        {
            "datasets": {"data": {"dataset": args.dataset}},
            "backbones": [args.backbone],
            "crop": args.crop,
            "shots": SHOTS,
            "seeds": SEEDS,
            "methods": {"probe": {"l2": L2, "choose": "each"}},
        }
    )
    reporter = Reporter()
    planned = planned_cells(grid, grid.cells(), reporter).planned
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HYPERRULE_CACHE_DIR"] = cache  # an empty cache, so that features are extracted
        start = time.perf_counter()
        probing = Probing(planned[0], [one.cell for one in planned], reporter)
        extracted = time.perf_counter() - start
        for one in planned:
            probing.measure(one)
        total = time.perf_counter() - start
    images = len(probing.pool) + len(probing.test)
    print(f"features of {images:,} images  {extracted:.1f} s")
    print(f"with {len(planned)} probes  {total:.1f} s, {total / extracted:.2f} times as long")


if __name__ == "__main__":
    main()
