"""`hyperrule predict`: the likeliest classes of images, by a classifier that exists already."""

import json
from typing import TYPE_CHECKING, Any

import click

from hyperrule.api import predict
from hyperrule.cli.classifier_options import classifier_options
from hyperrule.wording import printable

if TYPE_CHECKING:
    from hyperrule.prediction.predictions import Prediction


@click.command("predict", short_help="What is on images, by a classifier that exists already.")
@classifier_options
@click.argument("images", nargs=-1, required=True)
@click.option("--top", type=int, metavar="N", help="Classes shown for an image [5].")
@click.option("--json", "as_json", is_flag=True, help="Print the predictions as JSON.")
def command(model: str, images: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Say what is on images, by a released classifier or a finished run; nothing is trained.

    MODEL is a name that 'hyperrule backbones' lists with a head, a hub handle or a SavedModel folder whose outputs
    are logits, a BiT .npz with a head, or a run folder. IMAGES are files and folders, which are searched.

    \b
    Examples:
      hyperrule predict efficientnet-lite0 cat.jpg holiday/
      hyperrule predict runs/flowers garden/*.jpg --top 1 --json

    Exit codes: 0 done; 1 an image could not be decoded, which its row says; 2 the request cannot be met.
    """
    predictions = predict(model, images, **options)
    if as_json:
        click.echo(json.dumps(list(map(_as_json, predictions)), indent=2))
    else:
        for prediction in predictions:
            _render(prediction)
    click.get_current_context().exit(1 if any(prediction.error for prediction in predictions) else 0)


def _as_json(prediction: "Prediction") -> dict[str, Any]:
    row: dict[str, Any] = {"image": prediction.image}
    row["predictions"] = [
        {"class": found.class_name}
        | ({"wnid": found.wnid} if found.wnid else {})
        | {"index": found.index, "score": found.score}
        for found in prediction.classes
    ]
    return row if prediction.error is None else {**row, "error": prediction.error}


def _render(prediction: "Prediction") -> None:
    """The image, and a line for each of its classes; names come last, for they have any length."""
    click.echo(printable(prediction.image))
    if prediction.error is not None:
        click.echo(f"  cannot be decoded: {prediction.error}")
    for found in prediction.classes:
        wnid = f"{found.wnid}  " if found.wnid else ""
        click.echo(f"  {found.score:8.2%}  {wnid}{printable(found.class_name)}")
