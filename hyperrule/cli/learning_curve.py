"""`hyperrule learning-curve`: would more labels help?"""

from typing import TYPE_CHECKING, Any

import click

from hyperrule.api import learning_curve
from hyperrule.cli.options import data_options, writable

if TYPE_CHECKING:
    from hyperrule.audit.learning_curve.curve import LearningCurve


@click.command("learning-curve", short_help="Would more labels help? Before anything is trained.")
@click.option("--dataset", required=True, metavar="TEXT", help="As for finetune: folder, table, tfds:NAME ...")
@data_options("backbone", "input_range", "split_seed", "exclude", "skip_corrupt")
@click.option("--size", type=int, metavar="PX", help="Side to which images are resized [128].")
@click.option("--html", metavar="FILE", help="Write the curve as one web page.")
@click.option("--json", "as_json", is_flag=True, help="Print the complete findings as JSON.")
def command(html: str | None, as_json: bool, **options: Any) -> None:
    """Measure how accuracy grows with the number of labels, and say what twice and four times as many should bring.

    What is measured is a closed-form probe of a frozen backbone's features, on the images that finetune would be tested
    on: with all labels, half of them, a quarter ... The first time features are extracted, some hundred images a second
    or fewer; then it takes seconds. Fine-tuning is usually more accurate; what it would gain is not measured.

    \b
    Examples:
      hyperrule learning-curve --dataset my_images
      hyperrule learning-curve --dataset my_images --backbone efficientnet-lite0 --html curve.html
    """
    page = writable("--html", html)
    curve = learning_curve(**{name: value for name, value in options.items() if value is not None})
    if page is not None:
        curve.write_page(page)
    if as_json:
        click.echo(curve.model_dump_json(indent=2))
    else:
        _render(curve)


def _render(curve: "LearningCurve") -> None:
    from hyperrule.audit.learning_curve.curve import a_class, answer, interval

    click.echo(f"{'labels a class':>14}  accuracy on {curve.examples:,} {curve.split} images")
    for point in curve.points:
        among = f"  {100 * point.low:.1f} to {100 * point.high:.1f} of {point.subsets} subsets"
        click.echo(f"{a_class(point.per_class):>14}  {point.top1:7.1%}{among if point.subsets > 1 else ''}")
    for one in curve.expected:
        click.echo(f"{a_class(one.labels / curve.classes):>14}  {one.top1:7.1%}  {interval(one)} expected")
    click.echo(f"\n{answer(curve)}")
