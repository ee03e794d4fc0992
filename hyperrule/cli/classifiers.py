"""`hyperrule predict`, `evaluate`, `export`, `port` and `report`: the commands that use a trained classifier."""

import json
import shlex
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from hyperrule.api import evaluate, export, port, predict_each, report
from hyperrule.backbones.info import shown_range
from hyperrule.cli.options import classifier_options, data_flags
from hyperrule.cli.prediction_outputs import Outputs
from hyperrule.support.wording import number, printable, size

if TYPE_CHECKING:
    from hyperrule.exporting.parity import Parity
    from hyperrule.exporting.port import PortedBackbone
    from hyperrule.prediction.accuracy import Accuracy

WEAKEST = 5  # classes shown with the lowest accuracy
RANGES = ("0,1", "-1,1")


@click.command("predict", short_help="Classify images with a trained classifier.")
@classifier_options
@click.argument("images", nargs=-1, required=True)
@click.option("--top", type=int, metavar="N", help="Classes shown per image [5].")
@click.option("--threshold", type=float, default=0.0, metavar="T", help="Abstain if the best score is below T [0].")
@click.option("--csv", "csv_file", metavar="FILE", help="Write the predictions as CSV; - for stdout.")
@click.option(
    "--jsonl", "jsonl_file", metavar="FILE", help="Write the predictions as JSON, one object a line; - for stdout."
)
@click.option("--parquet", "parquet_file", metavar="FILE", help="Write the predictions as a Parquet table.")
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
    """Classify images with a finished run, an export of one or a released classifier; nothing is trained.

    MODEL is a run folder, an export of one (.tflite, .onnx, .keras or a SavedModel), a name that 'hyperrule backbones'
    lists with a head, a hub handle or a SavedModel folder whose outputs are logits, or a BiT .npz with a head.

    IMAGES are files, folders (searched with all their subfolders), globs (quoted, with ** for any folders), or - for a
    list of paths on stdin, separated by newlines or NUL. A million images need only the memory for their paths. Output
    files are written completely or not at all.

    \b
    Examples:
      hyperrule predict efficientnet-lite0 cat.jpg holiday/
      hyperrule predict runs/flowers 'garden/**/*.jpg' --top 1 --threshold 0.8 --csv garden.csv
      find garden -name '*.jpg' -print0 | hyperrule predict runs/flowers - --jsonl - | head

    Exit codes: 0 done; 1 an image could not be decoded (its row says why); 2 the request cannot be met.
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


@click.command("evaluate", short_help="Measure the accuracy of a trained classifier.")
@classifier_options
@click.option("--dataset", required=True, metavar="TEXT", help="As for finetune: folder, table, tfds:NAME ...")
@click.option("--split", metavar="test|validation|train", help="Split to evaluate, if the data set has splits [test].")
@data_flags("evaluate")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def evaluate_command(model: str, dataset: str, as_json: bool, **options: Any) -> None:
    """Measure a finished run, an export of one or a released classifier on labelled images; nothing is trained.

    MODEL is as for 'hyperrule predict'. Every image is scored against all classes of MODEL. A class folder's name is
    a class's WordNet id (n01440764 or n01440764_tench), name or index. If the data set has no splits, all of its images
    count. --json has the figures of every class, and the confusion matrix for up to 1,000 classes.

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


@click.command("export", short_help="Export a finished run as saved_model, module, litert, onnx or keras.")
@click.argument("run")
@click.option(
    "--format", "form", required=True, metavar="saved_model|module|litert|onnx|keras", help="Format to write."
)
@click.option("--quantize", default="none", metavar="none|float16|dynamic|int8", help="For litert. [none]")
@click.option("--out", metavar="PATH", help="New file or folder to write [in RUN/export].")
@click.option("--dataset", metavar="TEXT", help="New location of the run's images, if they moved.")
@click.option("--data-dir", metavar="FOLDER", help="Folder of TensorFlow Datasets or Hugging Face datasets.")
@click.option(
    "--min-agreement",
    type=float,
    metavar="FRACTION",
    help="Fraction of test images that must keep their predicted label.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def export_command(run: str, form: str, as_json: bool, **options: str | float | None) -> None:
    """Write the classifier of a finished RUN in another format, run the export in a fresh process on up to 256 of the
    run's test images, and compare. An export that disagrees with the run's evaluation is deleted.

    \b
    saved_model  TensorFlow and TensorFlow Serving: image bytes in, label, score and probabilities out
    module       TF2 Hub module: gives features, can be trained; for hub.KerasLayer, hub.load and --backbone
    litert       .tflite for phones and small devices (pip install 'hyperrule[litert]')
    onnx         .onnx, opset 17, for ONNX Runtime and others (pip install 'hyperrule[onnx]')
    keras        .keras, loads with Keras alone; BiT only

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
    click.echo(
        f"accuracy         {parity.accuracy_after:.2%} on these images, {parity.accuracy_before:.2%} before export"
    )
    click.echo(
        f"speed            {parity.latency_ms_1:.3g} ms per image, "
        f"{parity.images_per_second_32:.3g} images/s in batches of 32"
    )


@click.command("port", short_help="Convert a BiT from .npz to a TF2 Hub module, or back.")
@click.argument("source")
@click.argument("target")
@click.option(
    "--input-range",
    type=click.Choice(RANGES),
    help="Range of pixels that the SavedModel takes [0,1, as in google/bit].",
)
@click.option(
    "--classifier", is_flag=True, help="Write a SavedModel that gives the logits of the source's head, not features."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def port_command(source: str, target: str, input_range: str | None, classifier: bool, as_json: bool) -> None:
    """Write the BiT in SOURCE to TARGET: in BiT's public format if TARGET ends in .npz, else as a TF2 Hub
    SavedModel. The result is loaded again and compared with the source before success is reported.

    SOURCE is anything that --backbone takes: a name that 'hyperrule backbones' lists, a hub handle or URL, a BiT
    .npz, a SavedModel folder or .tar.gz, a run folder.

    \b
    Examples:
      hyperrule port bit-m-r50x1 m-r50x1                      for hub.load and hub.KerasLayer
      hyperrule port google/bit/m-r50x1/1 m-r50x1.npz         a hub module's weights, in BiT's public format
      hyperrule port runs/flowers flowers --classifier        a trained network, with its head
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


@click.command("report", short_help="Write the web page of a finished run, or compare several.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", metavar="FILE", help="File for the page [RUN/report.html; report.html for several runs].")
@click.option("--json", "as_json", is_flag=True, help="Print the page's location as JSON.")
def report_command(runs: tuple[str, ...], out: str | None, as_json: bool) -> None:
    """Write report.html and model_card.md of a finished RUN again, from its folder alone.

    Several runs give one page that compares them: figures with their intervals, differences of their plans, curves, and
    classes. Runs on other data are marked. The page is one file, without scripts.

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
