"""`hyperrule port`: a BiT from one form to another."""

import shlex
from typing import TYPE_CHECKING

import click

from hyperrule.api import port
from hyperrule.backbones.info import shown_range
from hyperrule.support.wording import size

if TYPE_CHECKING:
    from hyperrule.exporting.port import Ported

RANGES = ("0,1", "-1,1")


@click.command("port", short_help="A BiT from .npz to a TF2 Hub module, and back.")
@click.argument("source")
@click.argument("target")
@click.option(
    "--input-range", type=click.Choice(RANGES), help="Pixels that the SavedModel takes [0,1, as google/bit's do]."
)
@click.option("--classifier", is_flag=True, help="A SavedModel of the source's own head's logits, not of features.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(source: str, target: str, input_range: str | None, classifier: bool, as_json: bool) -> None:
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
        render(ported)


def render(ported: "Ported") -> None:
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
