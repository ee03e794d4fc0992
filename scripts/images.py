"""Make the README's pictures from a real run: terminals as SVG by rich, parts of the report as PNG by Chromium."""

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
PARTS = (("", 365), ("#results", 720))  # anchors in the report, and the height in pixels shown from each
FRAME = "border:0;display:block;width:100%"
THEMES = {"light": 1, "dark": 0}  # Chromium's numbers for preferred colour schemes
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
PLAN = "hyperrule plan --recipe digits"
FINETUNE = "hyperrule finetune --recipe digits --out runs/digits"


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        # The plan's table is in colour, without its live progress; the training's progress is plain lines.
        terminal(PLAN, output(PLAN, scratch, colour=True), IMAGES / "plan.svg")
        terminal(FINETUNE, output(FINETUNE, scratch, colour=False), IMAGES / "finetune.svg")
        report = Path(scratch, "runs", "digits", "report.html")
        for theme in THEMES:
            screenshot(report, theme, IMAGES / f"report-{theme}.png")


def output(command: str, folder: str, colour: bool) -> str:
    """Return what a command prints when it runs in `folder`."""
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


def terminal(command: str, printed: str, file: Path) -> None:
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(Text.assemble(("$ ", "green"), (command, "bold")))
    console.print(Text.from_ansi(printed))
    console.save_svg(str(file), title="hyperrule", unique_id=file.stem)


def screenshot(page: Path, theme: str, file: Path) -> None:
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        sys.exit(f"scripts/pictures: {file.name} needs Chromium; install one of {', '.join(CHROMIUM)}")
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
