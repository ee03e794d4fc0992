"""Finished run folders without training: every file except the weights and exports, from made-up logits."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.special import softmax

import hyperrule
from hyperrule.data.open import open_source
from hyperrule.evaluation.calibration import scale_temperature
from hyperrule.evaluation.inference import write_predictions
from hyperrule.evaluation.metrics import compute_metrics
from hyperrule.reporting.pictures import keep_pictures
from hyperrule.run_folder import RunFolder

PARITY = {
    "format": "saved_model",
    "quantize": "none",
    "path": "saved_model/1",
    "bytes": 14_000_000,
    "examples": 64,
    "top1_agreement": 1.0,
    "largest_difference": 1e-6,
    "accuracy_before": 0.7,
    "accuracy_after": 0.7,
    "latency_ms_1": 9.0,
    "images_per_second_32": 200.0,
}


def make_data(folder: Path, class_names: Sequence[str], train: int = 3, test: int = 4, side: int = 24) -> Path:
    """Write a table of small images, each class in its own colour, and return its path."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "label", "split"])
        for label, name in enumerate(class_names):
            colour = rng.integers(0, 256, 3)
            for number in range(train + test):
                pixels = (colour + rng.integers(-40, 40, (side, side + number, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{label}-{number}.png")
                rows.writerow([f"{label}-{number}.png", name, "train" if number < train else "test"])
    return folder / "images.csv"


def make_run(path: Path, dataset: Path | str, seed: int = 0, skill: float = 3.0, **options: object) -> RunFolder:
    """Write a finished run. `skill` is added to the right class's logit; `options` are those of `hyperrule.plan`."""
    plan = hyperrule.plan(dataset=dataset, **{"steps": 60, "batch": 16, "crop": 32, "seed": seed, **options})
    run = RunFolder(path)
    run.create(plan)
    rng = np.random.default_rng(seed)
    for step in range(plan.steps):
        line = {"loss": 3 * np.exp(-step / 20) + rng.random() / 5, "gradient_norm": rng.random()}
        line |= {"learning_rate": plan.learning_rate(step), "images_per_second": 90 + 9 * rng.random()}
        run.append_metrics({"kind": "step", "step": step + 1, **line})
        if (step + 1) % 20 == 0:
            run.append_metrics(
                {"kind": "evaluation", "step": step + 1, "top1": (step + 1) / plan.steps, "top5": 1, "loss": 1.0}
            )
    source = open_source(str(dataset))
    testing = source.examples("test")
    logits = rng.standard_normal((len(testing), len(plan.class_names))).astype(np.float32)
    logits[np.arange(len(testing)), testing.labels] += skill
    calibration = scale_temperature(logits, testing.labels, None)
    probabilities = softmax(logits / calibration.temperature, axis=1)
    metrics = compute_metrics(logits, testing.labels, plan.class_names).model_copy(update={"calibration": calibration})
    run.write(run.eval_file, metrics.model_dump_json())
    write_predictions(run.predictions_file, testing, probabilities, plan.class_names)
    keep_pictures(run, source, testing, probabilities)
    run.export.mkdir()
    run.write(run.parity_file, json.dumps({"saved_model": PARITY}))
    run.write(run.card_file, "")
    return run
