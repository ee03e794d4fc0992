"""Compare the plan's memory estimate with the peak of two training steps, each case in a fresh process.

scripts/bench memory                                     # all 48 cases: two hours on 2 cores
scripts/bench memory R50x1@128 --micro-batch 4 --precision bfloat16

The peak is the process's largest resident set, as the kernel counts it, over two steps of two micro-batches of random
images. A case whose estimate exceeds the free memory is skipped.
"""

import argparse
import itertools
import os
import resource
import subprocess
import sys

NETWORKS = ("R26x0.5@128", "R50x1@128", "R50x1@224", "R50x1@480")
MICRO_BATCHES = (1, 4, 16)
PRECISIONS = ("float32", "bfloat16")
STEPS, PARTS, CLASSES = 2, 2, 10
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK@CROP")
    parser.add_argument("--micro-batch", type=int, nargs="+", default=MICRO_BATCHES)
    parser.add_argument("--precision", nargs="+", default=PRECISIONS)
    parser.add_argument("--remat", nargs="+", choices=("off", "on"), default=("off", "on"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cases = list(itertools.product(args.networks, args.micro_batch, args.precision, args.remat))
    if args.child:
        print(peak(*cases[0]))
        return
    print("| network | micro-batch | precision | remat | estimate, MiB | measured, MiB | ratio |")
    print("|---|---|---|---|---|---|---|")
    for case in cases:
        print("| " + " | ".join([*map(str, case), *compared(*case)]) + " |", flush=True)


def compared(network: str, micro_batch: int, precision: str, remat: str) -> list[str]:
    """Return estimate, measured peak (both in MiB) and their ratio, as table cells."""
    import psutil

    from hyperrule.backbones.describe import describe_backbone
    from hyperrule.planning.cost import memory_bytes

    name, _, crop = network.partition("@")
    backbone = describe_backbone(f"random-{name.lower()}")
    estimate = memory_bytes(backbone, int(crop), micro_batch, precision, remat == "on")
    if estimate > psutil.virtual_memory().available:
        return [f"{estimate / MIB:.0f}", "skipped: not enough free memory", ""]
    case = ["--child", network, "--micro-batch", str(micro_batch), "--precision", precision, "--remat", remat]
    child = subprocess.run([sys.executable, __file__, *case], check=True, text=True, capture_output=True)
    measured = int(child.stdout.split()[-1])
    return [f"{estimate / MIB:.0f}", f"{measured / MIB:.0f}", f"{estimate / measured:.2f}"]


def peak(network: str, micro_batch: int, precision: str, remat: str) -> int:
    """Run the steps and return the largest resident set of this process, in bytes."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from hyperrule.backbones.describe import describe_backbone
    from hyperrule.data.pipeline import MicroBatch
    from hyperrule.training.classifier import make_classifier
    from hyperrule.training.step import TrainingStep

    name, _, crop = network.partition("@")
    tf.config.experimental.enable_op_determinism()  # as in a run
    tf.keras.utils.set_random_seed(0)
    classifier = make_classifier(describe_backbone(f"random-{name.lower()}"), CLASSES, precision, remat=remat == "on")
    step = TrainingStep(classifier, tf.distribute.get_strategy(), PARTS * micro_batch)
    part = MicroBatch(
        images=tf.random.uniform([micro_batch, int(crop), int(crop), 3]),
        targets=tf.one_hot(tf.zeros([micro_batch], tf.int32), CLASSES),
        weights=tf.ones([micro_batch]),
    )
    for _ in range(STEPS):
        step.run([part] * PARTS, 0.003)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


main()
