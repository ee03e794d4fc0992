"""Exports a finished run's classifier in another format, runs it in a fresh process, and compares."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperrule.data.images import Examples
from hyperrule.errors import RunError
from hyperrule.exporting.converted import export_keras, export_litert, export_onnx
from hyperrule.exporting.evaluated import evaluated_examples
from hyperrule.exporting.parity import Parity
from hyperrule.exporting.replay import check_parity
from hyperrule.exporting.saved_model import export_module, export_saved_model
from hyperrule.prediction.formats import (
    AFTER_GPU,
    FLOAT32,
    TOLERANCES,
    Card,
    FormatName,
    Quantize,
    Tolerance,
    export_name,
)
from hyperrule.prediction.released import ReleasedClassifier
from hyperrule.run_folder import RunFolder
from hyperrule.support.files import os_errors_as
from hyperrule.support.progress import Reporter
from hyperrule.training.classifier import load_classifier


def export_run(
    run: RunFolder,
    classifier: ReleasedClassifier,
    training: Examples,
    testing: Examples,
    name: FormatName,
    quantize: Quantize,
    min_agreement: float | None,
    target: Path,
    reporter: Reporter,
) -> Parity:
    """Write the run's classifier to `target`, which must not exist, and compare it with the run's evaluation.

    `testing` are the images of the run's evaluation; int8 takes the ranges of activations from `training`.
    `min_agreement` replaces the required fraction of equal labels, None for the default. Raises RunFolderError if the
    evaluation was on other images, UserError if the network does not allow the format, RunError if it cannot be
    converted or disagrees with the evaluation.
    """
    card = Card(
        name=run.path.resolve().name,
        class_names=tuple(known.name for known in classifier.class_names),
        size=classifier.size,
        temperature=classifier.temperature,
    )
    evaluated, probabilities = evaluated_examples(run, testing, card.class_names)
    tolerance = TOLERANCES[quantize]
    if run.read_plan().machine.gpus and tolerance == FLOAT32:
        tolerance = AFTER_GPU
    if min_agreement is not None:
        most = tolerance.difference if quantize == "none" else 1.0
        tolerance = Tolerance(difference=most, agreement=min_agreement)
    reporter.say(f"Exporting {card.name} as {export_name(name, quantize)} ...")
    with os_errors_as(RunError, "the export cannot be written"):
        _write(classifier, card, name, quantize, training, target)
    reporter.say("Comparing it with the evaluation, in a fresh process ...")
    return check_parity(target, name, quantize, card, evaluated, probabilities, tolerance)


def _write(
    classifier: ReleasedClassifier, card: Card, name: FormatName, quantize: Quantize, training: Examples, target: Path
) -> None:
    folded = name != "module"  # which trains
    network = load_classifier(classifier.backbone, classifier.classes, classifier.head, folded=folded)
    match name:
        case "saved_model":
            export_saved_model(network, card, target)
        case "module":
            export_module(network, card, target)
        case "litert":
            with _converting("LiteRT"):
                export_litert(network, card, quantize, training, target)
        case "onnx":
            with _converting("ONNX"):
                export_onnx(network, card, target)
        case "keras":
            export_keras(network, card, target)


@contextmanager
def _converting(what: str) -> Iterator[None]:
    """Turn any error of a converter within the block into a RunError with its first line."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(f"this network cannot be converted to {what}: {reason[:300]}") from error
