"""`hyperrule predict`: the likeliest classes of images, by a classifier that exists already."""

from contextlib import closing
from typing import Any

import click

from hyperrule.api import predict_each
from hyperrule.cli.options import classifier_options
from hyperrule.cli.prediction_outputs import Outputs
from hyperrule.support.wording import number


@click.command("predict", short_help="What is on images, by a classifier that exists already.")
@classifier_options
@click.argument("images", nargs=-1, required=True)
@click.option("--top", type=int, metavar="N", help="Classes shown for an image [5].")
@click.option("--threshold", type=float, default=0.0, metavar="T", help="Abstain where the best score is below [0].")
@click.option("--csv", "csv_file", metavar="FILE", help="Write the predictions as CSV; - is stdout.")
@click.option("--jsonl", "jsonl_file", metavar="FILE", help="Write them as JSON, an object a line; - is stdout.")
@click.option("--parquet", "parquet_file", metavar="FILE", help="Write them as a Parquet table.")
@click.option("--json", "as_json", is_flag=True, help="Print the predictions as JSON.")
def command(
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
