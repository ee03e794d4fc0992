"""The README's pictures, from a real run: terminals as SVG by rich, parts of the report as PNG by Chromium."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

IMAGES = Path(__file__).parents[1] / "docs" / "images"
COLUMNS = 112
WIDTH = 1000  # pixels
PARTS = (("", 330), ("#results", 720))  # of the report that are shown, and their height
FRAME = "border:0;display:block;width:100%"
THEMES = {"light": 1, "dark": 0}  # Chromium's numbers of a preferred colour scheme
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
PLAN = "hyperrule plan --recipe digits"
FINETUNE = "hyperrule finetune --recipe digits --out runs/digits"


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        # Colours for the table of the plan, whose live progress is left out; plain lines of the training's.
        terminal(PLAN, output(PLAN, scratch, colour=True), IMAGES / "plan.svg")
        terminal(FINETUNE, output(FINETUNE, scratch, colour=False), IMAGES / "finetune.svg")
        report = Path(scratch, "runs", "digits", "report.html")
        for theme in THEMES:
            screenshot(report, theme, IMAGES / f"report-{theme}.png")


def output(command: str, folder: str, colour: bool) -> str:
    """What a command says, run in `folder`."""
    colours = {"FORCE_COLOR": "1"} if colour else {"NO_COLOR": "1"}
    finished = subprocess.run(
        [str(Path(sys.executable).with_name("hyperrule")), *shlex.split(command)[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if colour else subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, **colours, "COLUMNS": str(COLUMNS)},
        check=True,
    )
    return finished.stdout


def terminal(command: str, said: str, file: Path) -> None:
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(Text.assemble(("$ ", "green"), (command, "bold")))
    console.print(Text.from_ansi(said))
    console.save_svg(str(file), title="hyperrule", unique_id=file.stem)


def screenshot(page: Path, theme: str, file: Path) -> None:
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        sys.exit(
            f"scripts/pictures: no Chromium to draw {file.name} with; one of {', '.join(CHROMIUM)} must be installed"
        )
    frames = "".join(
        f'<iframe src="{page.as_uri()}{part}" scrolling="no" style="{FRAME};height:{height}px"></iframe>'
        for part, height in PARTS
    )
    parts = page.with_name("parts.html")
    parts.write_text(f'<body style="margin:0">{frames}')
    options = [
        "--headless",
        "--no-sandbox",
        "--hide-scrollbars",
        f"--window-size={WIDTH},{sum(height for _, height in PARTS)}",
        f"--blink-settings=preferredColorScheme={THEMES[theme]}",
        f"--screenshot={file}",
    ]
    subprocess.run([browser, *options, parts.as_uri()], stderr=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
