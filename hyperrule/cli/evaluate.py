"""`hyperrule evaluate`: accuracy of a classifier that exists already."""

from typing import TYPE_CHECKING, Any

import click

from hyperrule.api import evaluate
from hyperrule.cli.options import classifier_options, data_options
from hyperrule.support.wording import printable

if TYPE_CHECKING:
    from hyperrule.prediction.accuracy import Accuracy

WEAKEST = 5  # classes that are shown


@click.command("evaluate", short_help="Accuracy of a classifier that exists already.")
@classifier_options
@click.option("--dataset", required=True, metavar="TEXT", help="As for finetune: folder, table, tfds:NAME ...")
@click.option("--split", metavar="test|validation|train", help="Which images, where they are split [test].")
@data_options()
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def command(model: str, dataset: str, as_json: bool, **options: Any) -> None:
    """Measure a finished run, an export of one or a released classifier on labelled images; nothing is trained.

    MODEL is what 'hyperrule predict' takes. Every image is judged against all classes of MODEL; class folders are
    called by WordNet id (n01440764 or n01440764_tench), name or index of a class. Where images are not split,
    all of them count. --json has all figures by class, and up to 1,000 classes the confusion matrix.

    \b
    Examples:
      hyperrule evaluate runs/flowers/export/classifier.tflite --dataset flowers --json
      hyperrule evaluate bit-s-r50x1 --dataset imagenette --split validation

    Exit codes: 0 done; 1 an image could not be decoded and is not counted; 2 the request cannot be met.
    """
    accuracy = evaluate(model, dataset, **options)
    if as_json:
        click.echo(accuracy.model_dump_json(indent=2))
    else:
        _render(accuracy)
    click.get_current_context().exit(1 if accuracy.undecodable else 0)


def _render(accuracy: "Accuracy") -> None:
    loss = f", loss {accuracy.loss:.4f}" if accuracy.loss is not None else ""
    correct = round(accuracy.top1 * accuracy.examples)
    click.echo(
        f"{accuracy.split or 'overall'} accuracy {accuracy.top1:.2%} ({correct} of {accuracy.examples}), "
        f"top-5 {accuracy.top5:.2%}{loss}"
    )
    ece = f", expected calibration error {accuracy.reliability.ece:.2%}" if accuracy.reliability is not None else ""
    click.echo(f"balanced    {accuracy.balanced_accuracy:.2%}{ece}")
    click.echo(f"classifier  {accuracy.model}: {accuracy.classes} classes, {accuracy.activation}, {accuracy.size} px")
    present = (figures for figures in accuracy.per_class if figures.examples)
    weakest = sorted(present, key=lambda figures: figures.top1)[:WEAKEST]
    digits = len(str(max(figures.examples for figures in weakest)))
    for label, figures in zip(["weakest", *[""] * WEAKEST], weakest, strict=False):
        name = figures.class_name if figures.class_name == figures.folder else f"{figures.folder}: {figures.class_name}"
        click.echo(f"{label:10}  {figures.top1:7.2%} of {figures.examples:{digits}}  {printable(name)}")
    for image, why in accuracy.undecodable.items():
        click.echo(printable(f"not counted {image}: {why}"))
