"""Compare training step, inference and first step with peers, alternating, as ratios (above 1: hyperrule is faster).

    scripts/bench training [--pairs 5] [--quick] [--json HISTORY.jsonl] [--plot HISTORY.png]

The peers are timm's BiT under PyTorch, in float32 and bfloat16 autocast, in its faster memory format (each pair tries
both), and the same network from plain Keras layers with `model.fit`. timm is installed into .venv-peers, unless
HYPERRULE_PEERS_PYTHON names a Python that has it. The first step is timed in fresh processes, imports included.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PEERS = ("torch==2.14.1", "timm==1.0.31", "matplotlib")  # the versions of the project's targets
CLASSES = 10
Timed = Callable[[], float]


class Case(NamedTuple):
    depth: int
    width: float
    batch: int
    side: int = 128

    def __str__(self) -> str:
        return f"R{self.depth}x{self.width:g}, {self.side} px, batch {self.batch}"


CASES = (Case(50, 1, 16), Case(50, 1, 32), Case(26, 0.5, 64))


class Timm:
    """The process of peers/timm_worker.py, which takes one measurement at a time."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
        command = [peers_python(), str(HERE / "peers" / "timm_worker.py")]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.versions = ""

    def __call__(self, case: Case, precision: str, training: bool) -> Timed:
        request = json.dumps({**case._asdict(), "precision": precision, "training": training})

        def seconds() -> float:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            print(request, file=self.process.stdin, flush=True)
            answer = json.loads(self.process.stdout.readline())
            self.versions = answer["versions"]
            return float(answer["seconds"])

        return seconds


def peers_python() -> str:
    if named := os.environ.get("HYPERRULE_PEERS_PYTHON"):
        return named
    python = ROOT / ".venv-peers" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS], check=True)
    return str(python)


def batch_of(case: Case) -> tuple[Any, Any]:
    """Return images, float32 [N, side, side, 3] in [0, 1], and one-hot targets, float32 [N, CLASSES]."""
    import numpy as np
    import tensorflow as tf

    images = np.random.default_rng(0).uniform(0, 1, (case.batch, case.side, case.side, 3))
    return tf.constant(images, tf.float32), tf.one_hot(tf.range(case.batch) % CLASSES, CLASSES)


def own_classifier(case: Case, precision: str) -> Any:
    from hyperrule.backbones.bit.architecture import Architecture
    from hyperrule.backbones.bit.resnet_v2 import ResNetV2
    from hyperrule.training.classifier import POLICIES, Classifier

    return Classifier(ResNetV2(Architecture(case.depth, case.width), POLICIES[precision]), CLASSES)


def own_step(case: Case, precision: str) -> Timed:
    import tensorflow as tf

    from hyperrule.data.pipeline import MicroBatch
    from hyperrule.training.step import TrainingStep

    step = TrainingStep(own_classifier(case, precision), tf.distribute.get_strategy(), case.batch)
    images, targets = batch_of(case)
    return timed(lambda: step.run([MicroBatch(images, targets, tf.ones(case.batch))], 1e-3))


def own_export(case: Case) -> Timed:
    """Time the exported float32 classifier, with its kernels folded as `finetune` exports it."""
    import numpy as np
    import tensorflow as tf

    from hyperrule.exporting.saved_model import export_saved_model
    from hyperrule.prediction.formats import Card
    from hyperrule.training.classifier import fold

    classifier = own_classifier(case, "float32")
    copy = classifier.for_inference()
    fold(classifier, copy)
    folder = Path(tempfile.mkdtemp(), "saved_model")
    names = tuple(map(str, range(CLASSES)))
    export_saved_model(copy, Card(name="bench", class_names=names, size=case.side, temperature=1.0), folder)
    module = tf.saved_model.load(str(folder))
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (case.batch, case.side, case.side, 3)), tf.uint8)
    return timed(lambda: module.signatures["images"](images=images)["probabilities"].numpy())


def keras_step(case: Case) -> Timed:
    """Time a step of `model.fit`, averaged over three."""
    import tensorflow as tf

    sys.path.insert(0, str(HERE / "peers"))
    from plain_keras import plain_keras

    model = plain_keras(case.depth, case.width, case.side)
    images, targets = batch_of(case)
    steps = 3
    data = tf.data.Dataset.from_tensors((2 * images - 1, targets)).repeat(steps).cache()
    fit = timed(lambda: model.fit(data, epochs=1, verbose=0))
    return lambda: fit() / steps


def timed(work: Callable[[], object]) -> Timed:
    def seconds() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return seconds


def first_step(make: str, case: Case) -> Timed:
    """Time from the start of a fresh interpreter to the end of its first step."""
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import training as t; t.{make}(t.{case!r}{{}})()"
    code = code.format(", 'float32'" if make == "own_step" else "")
    return timed(lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True))


def compared(what: str, case: Case, own: Timed, peers: dict[str, Timed], pairs: int, warm: bool = True) -> list[dict]:
    """Measure hyperrule and every peer once in each of `pairs` rounds; return a record of medians for each peer."""
    ways = {"hyperrule": own, **peers}
    if warm:
        for seconds in ways.values():
            seconds()
    rounds = [{name: seconds() for name, seconds in ways.items()} for _ in range(pairs)]
    median = {name: statistics.median(taken[name] for taken in rounds) for name in ways}
    lines = []
    for name in peers:
        ratios = sorted(taken[name] / taken["hyperrule"] for taken in rounds)
        line = {
            "what": what,
            "case": str(case),
            "images_per_second": round(case.batch / median["hyperrule"], 2),
            "peer": name,
            "peer_images_per_second": round(case.batch / median[name], 2),
            "ratio": round(statistics.median(ratios), 2),
            "range": [round(ratios[0], 2), round(ratios[-1], 2)],
        }
        print(
            f"{what:<22} {line['case']:<26} {line['images_per_second']:8.2f} images/s   "
            f"{name:<14} {line['peer_images_per_second']:8.2f}   {line['ratio']:5.2f} x  "
            f"({ratios[0]:.2f}-{ratios[-1]:.2f})",
            flush=True,
        )
        lines.append(line)
    return lines


def machine() -> dict[str, Any]:
    import tensorflow as tf

    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":")[1].strip() for line in info.splitlines() if "model name" in line), platform.machine())
    sets = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in info]
    return {"processor": model, "cores": os.cpu_count(), "instructions": sets, "tensorflow": tf.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="the first case only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append all figures as one JSON line")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot the history in the --json file")
    args = parser.parse_args()
    if args.plot and not args.json:
        parser.error("--plot needs --json, the history to plot")
    timm, facts = Timm(), machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    figures: list[dict] = []
    for case in CASES[:1] if args.quick else CASES:
        timm_steps = {f"timm {short}": timm(case, full, True) for short, full in SHORT.items()}
        peers = {"timm f32": timm_steps["timm f32"], "plain Keras": keras_step(case)}
        figures += compared("training step f32", case, own_step(case, "float32"), peers, args.pairs)
        figures += compared("training step bf16", case, own_step(case, "bfloat16"), timm_steps, args.pairs)
        forward = {f"timm {short}": timm(case, full, False) for short, full in SHORT.items()}
        figures += compared("inference, export f32", case, own_export(case), forward, args.pairs)
    first = {"plain Keras": first_step("keras_step", CASES[0])}
    figures += compared("first step", CASES[0], first_step("own_step", CASES[0]), first, args.pairs, warm=False)
    print(f"{timm.versions}; exports have no bfloat16 form")
    if args.json:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
        run = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit.stdout.strip()}
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**run, "machine": facts, "peers": timm.versions, "figures": figures}) + "\n")
    if args.plot:
        script = HERE / "peers" / "plot_history.py"
        subprocess.run([peers_python(), str(script), str(args.json), str(args.plot)], check=True)


SHORT = {"f32": "float32", "bf16": "bfloat16"}

if __name__ == "__main__":
    main()
