"""Measure the overhead of a run over its bare steps: data, metrics, progress and a checkpoint a minute.

    scripts/bench overhead [--pairs 3] [--seconds 60] [--precision float32]

Trains R26x0.5 at 128 px, batch 64, on 512 JPEGs of 160 x 160 pixels. The training loop of `finetune` alternates with as
many bare steps on one batch in memory; each turn of the loop ends with a checkpoint. Metrics and progress are also
timed alone, as a share of a step.
"""

import argparse
import statistics
import tempfile
import time
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

import hyperrule
from hyperrule.data.open import open_source
from hyperrule.jobs.finetune import Finetuning
from hyperrule.run_folder import RunFolder
from hyperrule.support.progress import Reporter
from hyperrule.training.loop import Feed, Loop

SIDE, CLASSES, EACH = 160, 4, 128
CALLS = 2000


def photographs(folder: Path) -> Path:
    """Write JPEGs that take as long to decode as real ones: smooth colours with some noise."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)
        for number in range(EACH):
            coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((SIDE, SIDE))
            noisy = np.asarray(coarse, np.int16) + rng.integers(-12, 12, (SIDE, SIDE, 3))
            pixels = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            pixels.save(folder / str(label) / f"{number}.jpg", quality=90)
    return folder


class Turns:
    """One job in memory, whose steps can be timed bare, or inside the whole training loop."""

    def __init__(self, scratch: Path, precision: str) -> None:
        options = {"dataset": str(photographs(scratch / "images")), "precision": precision, "xla": "off"}
        options |= {"batch": 64, "crop": 128, "resize": 160, "steps": 10**6, "checkpoint_every": 10**6}
        self.reporter = Reporter()
        plan = hyperrule.plan(**options)
        source = open_source(options["dataset"], reporter=self.reporter)
        self.job = Finetuning(plan, source, RunFolder(scratch / "run"), self.reporter)
        self.job._start()
        self.job.initialise()
        self.job.run.create(plan)
        _, micro_batches = self.job.cut(0, plan.micro_batch.value)
        self.batch = [next(micro_batches) for _ in range(self.job.workers.shard.rounds(64, plan.micro_batch.value))]
        self.job.step.run(self.batch, 0.0)

    def bare(self, steps: int) -> float:
        """Return the seconds of one bare step."""
        start = time.perf_counter()
        for batch in repeat(self.batch, steps):
            self.job.step.run(batch, 0.0)
        return (time.perf_counter() - start) / steps

    def whole(self, steps: int) -> float:
        """Return the seconds of one step of the training loop, with a share of its last checkpoint."""
        schedule = self.job.plan.schedule.model_copy(update={"value": self.job.plan.schedule.value.stretched(steps)})
        plan = self.job.plan.model_copy(update={"schedule": schedule})
        self.job.plan, former = plan, self.job.plan
        feed = Feed(self.job.cut, plan.micro_batch.value, 0)
        loop = Loop(self.job.step, plan, self.job.run, feed, lambda check: {}, self.job.workers, self.reporter)
        start = time.perf_counter()
        loop.train(0)
        seconds = (time.perf_counter() - start) / steps
        self.job.plan = former
        return seconds

    def reporting(self) -> float:
        """Return the seconds that metrics and progress take in one step."""
        with self.reporter.stage("Reporting", CALLS) as report:
            start = time.perf_counter()
            for number in range(CALLS):
                line = {"loss": 1.0, "gradient_norm": 1.0, "learning_rate": 0.003, "images_per_second": 60.0}
                self.job.run.append_metrics({"kind": "step", "step": number, **line})
                report(number, f"loss {1.0:.4f}  lr {0.003:.2g}  {60.0:.3g} images/s")
            return (time.perf_counter() - start) / CALLS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=60, help="length of a turn, and so the time between checkpoints"
    )
    parser.add_argument("--precision", default="float32")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        turns = Turns(Path(scratch), args.precision)
        steps = max(2, round(args.seconds / turns.bare(5)))
        pairs = [(turns.bare(steps), turns.whole(steps)) for _ in range(args.pairs)]
        bare = statistics.median(bare for bare, _ in pairs)
        ratios = sorted(bare / whole for bare, whole in pairs)
        print(
            f"{args.precision}: bare step {64 / bare:.1f} images/s; finetune at {statistics.median(ratios):.3f} of it"
        )
        print(f"({', '.join(f'{ratio:.3f}' for ratio in ratios)}; {steps} steps a turn)")
        print(f"metrics and progress: {100 * turns.reporting() / bare:.3f} % of a step")


if __name__ == "__main__":
    main()
