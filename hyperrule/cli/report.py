"""`hyperrule report`: the web page of a finished run, or of several side by side."""

import json

import click

from hyperrule.api import report
from hyperrule.support.wording import printable


@click.command("report", short_help="The web page of finished runs, made anew or side by side.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", metavar="FILE", help="Write the page there [RUN/report.html; of several runs report.html].")
@click.option("--json", "as_json", is_flag=True, help="Print where the page is as JSON.")
def command(runs: tuple[str, ...], out: str | None, as_json: bool) -> None:
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
