"""`hyperrule export`: a finished run's classifier for other runtimes."""

import shlex
from typing import TYPE_CHECKING

import click

from hyperrule.api import export
from hyperrule.support.wording import size

if TYPE_CHECKING:
    from hyperrule.exporting.parity import Parity


@click.command("export", short_help="A finished run's classifier as saved_model, module, litert, onnx or keras.")
@click.argument("run")
@click.option("--format", "form", required=True, metavar="saved_model|module|litert|onnx|keras", help="What to write.")
@click.option("--quantize", default="none", metavar="none|float16|dynamic|int8", help="For litert. [none]")
@click.option("--out", metavar="PATH", help="A new file or folder [in RUN/export].")
@click.option("--dataset", metavar="TEXT", help="Where the images of the run are now, if they moved.")
@click.option("--data-dir", metavar="FOLDER", help="Where TensorFlow Datasets or Hugging Face datasets lie.")
@click.option("--min-agreement", type=float, metavar="FRACTION", help="Of test images that must keep their label.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def command(run: str, form: str, as_json: bool, **options: str | float | None) -> None:
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
        render(parity)


def render(parity: "Parity") -> None:
    click.echo(f"{parity.name:15}  {shlex.quote(parity.path)}, {size(parity.bytes)}")
    click.echo(
        f"same labels      {parity.top1_agreement:.2%} of {parity.examples} test images; "
        f"largest difference of a probability {parity.largest_difference:.1e}"
    )
    click.echo(f"accuracy         {parity.accuracy_after:.2%} on these images, {parity.accuracy_before:.2%} evaluated")
    click.echo(
        f"speed            {parity.latency_ms_1:.3g} ms an image, {parity.images_per_second_32:.3g} images/s by 32"
    )
