"""`hyperrule predict`, `evaluate`, `export`, `port` and `report`: what a trained classifier is good for."""

from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from hyperrule.api import evaluate, predict_each
from hyperrule.cli.options import classifier_options, data_flags
from hyperrule.cli.prediction_outputs import Outputs
from hyperrule.support.wording import number, printable

if TYPE_CHECKING:
    from hyperrule.prediction.accuracy import Accuracy
import shlex

from hyperrule.api import export
from hyperrule.support.wording import size

if TYPE_CHECKING:
    from hyperrule.exporting.parity import Parity
from hyperrule.api import port
from hyperrule.backbones.info import shown_range

if TYPE_CHECKING:
    from hyperrule.exporting.port import PortedBackbone
import json

from hyperrule.api import report


@click.command("predict", short_help="What is on images, by a classifier that exists already.")
@classifier_options
@click.argument("images", nargs=-1, required=True)
@click.option("--top", type=int, metavar="N", help="Classes shown for an image [5].")
@click.option("--threshold", type=float, default=0.0, metavar="T", help="Abstain where the best score is below [0].")
@click.option("--csv", "csv_file", metavar="FILE", help="Write the predictions as CSV; - is stdout.")
@click.option("--jsonl", "jsonl_file", metavar="FILE", help="Write them as JSON, an object a line; - is stdout.")
@click.option("--parquet", "parquet_file", metavar="FILE", help="Write them as a Parquet table.")
@click.option("--json", "as_json", is_flag=True, help="Print the predictions as JSON.")
def predict_command(
    model: str,
    images: tuple[str, ...],
    as_json: bool,
    csv_file: str | None,
    jsonl_file: str | None,
    parquet_file: str | None,
    **options: Any,
) -> None:
    """Say what is on images, by a finished run, an export of one or a released classifier; nothing is trained.

    MODEL is a run folder, an export of one (.tflite, .onnx, .keras or a SavedModel), a name that 'hyperrule backbones'
    lists with a head, a hub handle or a SavedModel folder whose outputs are logits, or a BiT .npz with a head.

    IMAGES are files, folders, which are searched, globs (quoted, with ** for any folders), or - for a list of paths on
    stdin, one a line or ended by NUL. A million need no more memory than their paths. Files are written whole or not
    at all.

    \b
    Examples:
      hyperrule predict efficientnet-lite0 cat.jpg holiday/
      hyperrule predict runs/flowers 'garden/**/*.jpg' --top 1 --threshold 0.8 --csv garden.csv
      find garden -name '*.jpg' -print0 | hyperrule predict runs/flowers - --jsonl - | head

    Exit codes: 0 done; 1 an image could not be decoded, which its row says; 2 the request cannot be met.
    """
    outputs = Outputs.checked(as_json, csv_file, jsonl_file, parquet_file)
    count = undecodable = abstained = 0
    with closing(predict_each(model, images, **options)) as predictions, outputs.opened(predictions.top) as writes:
        for prediction in predictions:
            for write in writes:
                write(prediction)
            count += 1
            undecodable += prediction.error is not None
            abstained += prediction.abstained
    if undecodable:
        click.echo(f"{undecodable:,} of {number(count, 'image')} cannot be decoded", err=True)
    if options["threshold"]:
        below = f"the best score is below {options['threshold']:g}"
        click.echo(f"{abstained:,} of {number(count, 'image')} are uncertain: {below}", err=True)
    click.get_current_context().exit(1 if undecodable else 0)


WEAKEST = 5  # classes that are shown


@click.command("evaluate", short_help="Accuracy of a classifier that exists already.")
@classifier_options
@click.option("--dataset", required=True, metavar="TEXT", help="As for finetune: folder, table, tfds:NAME ...")
@click.option("--split", metavar="test|validation|train", help="Which images, where they are split [test].")
@data_flags("evaluate")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def evaluate_command(model: str, dataset: str, as_json: bool, **options: Any) -> None:
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
        _render_evaluation(accuracy)
    click.get_current_context().exit(1 if accuracy.undecodable else 0)


def _render_evaluation(accuracy: "Accuracy") -> None:
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


@click.command("export", short_help="A finished run's classifier as saved_model, module, litert, onnx or keras.")
@click.argument("run")
@click.option("--format", "form", required=True, metavar="saved_model|module|litert|onnx|keras", help="What to write.")
@click.option("--quantize", default="none", metavar="none|float16|dynamic|int8", help="For litert. [none]")
@click.option("--out", metavar="PATH", help="A new file or folder [in RUN/export].")
@click.option("--dataset", metavar="TEXT", help="Where the images of the run are now, if they moved.")
@click.option("--data-dir", metavar="FOLDER", help="Where TensorFlow Datasets or Hugging Face datasets lie.")
@click.option("--min-agreement", type=float, metavar="FRACTION", help="Of test images that must keep their label.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def export_command(run: str, form: str, as_json: bool, **options: str | float | None) -> None:
    """Write the classifier of the finished RUN in another form, run it in a fresh process on up to 256 of its test
    images, and compare. What disagrees with the evaluation is not kept.

    \b
    saved_model  TensorFlow and TensorFlow Serving: image bytes in, label, score and probabilities out
    module       TF2 Hub: features, and trains; for hub.KerasLayer, hub.load and --backbone
    litert       .tflite for phones and small devices (pip install 'hyperrule[litert]')
    onnx         .onnx, opset 17, for ONNX Runtime and others (pip install 'hyperrule[onnx]')
    keras        .keras, opened by Keras alone; BiT only

    \b
    Examples:
      hyperrule export runs/flowers --format onnx
      hyperrule export runs/flowers --format litert --quantize int8
      hyperrule export runs/flowers --format saved_model --out serving/flowers
    """
    parity = export(run, form, **options)  # type: ignore[arg-type]
    if as_json:
        click.echo(parity.model_dump_json(indent=2))
    else:
        _render_export(parity)


def _render_export(parity: "Parity") -> None:
    click.echo(f"{parity.name:15}  {shlex.quote(parity.path)}, {size(parity.bytes)}")
    click.echo(
        f"same labels      {parity.top1_agreement:.2%} of {parity.examples} test images; "
        f"largest difference of a probability {parity.largest_difference:.1e}"
    )
    click.echo(f"accuracy         {parity.accuracy_after:.2%} on these images, {parity.accuracy_before:.2%} evaluated")
    click.echo(
        f"speed            {parity.latency_ms_1:.3g} ms an image, {parity.images_per_second_32:.3g} images/s by 32"
    )


RANGES = ("0,1", "-1,1")


@click.command("port", short_help="A BiT from .npz to a TF2 Hub module, and back.")
@click.argument("source")
@click.argument("target")
@click.option(
    "--input-range", type=click.Choice(RANGES), help="Pixels that the SavedModel takes [0,1, as google/bit's do]."
)
@click.option("--classifier", is_flag=True, help="A SavedModel of the source's own head's logits, not of features.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def port_command(source: str, target: str, input_range: str | None, classifier: bool, as_json: bool) -> None:
    """Write the BiT that SOURCE is to TARGET: BiT's public format if its name ends in .npz, else a TF2 Hub
    SavedModel, which is loaded again and compared before success is reported.

    SOURCE is whatever --backbone takes: a name that 'hyperrule backbones' lists, a hub handle or URL, a BiT
    .npz, a SavedModel folder or .tar.gz, a run folder.

    \b
    Examples:
      hyperrule port bit-m-r50x1 m-r50x1                      for hub.load and hub.KerasLayer
      hyperrule port google/bit/m-r50x1/1 m-r50x1.npz         a hub module's weights, in BiT's public format
      hyperrule port runs/flowers flowers --classifier        what was trained, with its head
      hyperrule port BiT-M-R50x1.npz module --input-range -1,1
    """
    ported = port(source, target, input_range=input_range, classifier=classifier)
    if as_json:
        click.echo(ported.model_dump_json(indent=2))
    else:
        _render_port(ported)


def _render_port(ported: "PortedBackbone") -> None:
    head = "no head" if ported.classes is None else f"head of {ported.classes:,} classes"
    path = shlex.quote(str(ported.path))
    if ported.form == "npz":
        click.echo(f"BiT .npz    {path}: {ported.architecture}, {head}")
        compared = "between its arrays and the source's"
        use = f"hyperrule finetune --dataset my_images --backbone {path}"
    else:
        outputs = f"{ported.features} features" if ported.classes is None else f"{ported.classes} logits"
        pixels = shown_range(ported.input_range)
        click.echo(f"SavedModel  {path}: {ported.architecture}, {outputs} of images with pixels in {pixels}")
        compared = "of the largest output, between it and the native network"
        use = f"hub.KerasLayer({str(ported.path)!r}, trainable=True), or --backbone {path}"
    click.echo(f"size        {size(ported.size)}")
    click.echo(f"difference  {ported.difference:.1g} {compared}")
    click.echo(f"use         {use}")


@click.command("report", short_help="The web page of finished runs, made anew or side by side.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", metavar="FILE", help="Write the page there [RUN/report.html; of several runs report.html].")
@click.option("--json", "as_json", is_flag=True, help="Print where the page is as JSON.")
def report_command(runs: tuple[str, ...], out: str | None, as_json: bool) -> None:
    """Make report.html and model_card.md of a finished RUN anew, from its folder alone.

    Several runs give one page that puts them side by side: figures with their intervals, what differs in their plans,
    curves, and classes; those of other data are marked. The page is one file, without scripts.

    \b
    Examples:
      hyperrule report runs/flowers
      hyperrule report runs/flowers runs/flowers-2 --out flowers.html
    """
    made = report(runs, out=out)
    if as_json:
        card = None if made.card is None else str(made.card)
        click.echo(json.dumps({"report": str(made.page), "model_card": card, "results": made.headlines}, indent=2))
        return
    for run, headline in made.headlines.items():
        click.echo(headline if len(runs) == 1 else printable(f"{headline}  {run}"))
    click.echo(f"report      {made.page}")
    if made.card is not None:
        click.echo(f"model card  {made.card}")


COMMANDS = (predict_command, evaluate_command, export_command, port_command, report_command)
