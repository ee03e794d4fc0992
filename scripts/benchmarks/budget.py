"""Compare `finetune --budget` with what people do instead, at equal time, on the same images and weights.

    scripts/bench budget [--data NAME]... [--minutes M]... [--backbone B]... [--ledger FILE]

Each cell is a data set, a time and a backbone: our command, TensorFlow Hub's tutorial (frozen, and fine-tuned), and
logistic regression on features, each in its own process. Our time is that of the whole command, with evaluation,
export and report; a peer's is that of training alone. Peers take images of 224 px, as the tutorial does. Cells in the
ledger, a file of JSON lines, are not measured again. Prints a Markdown table: accuracy on the test images in %, our
seconds, and how far ours is ahead of the best peer and of the better tutorial.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import mean

import hyperrule
from hyperrule.backbones.describe import describe_backbone
from hyperrule.data.open import open_source
from hyperrule.data.selection import few_shot

ARCHIVES = Path(__file__).parents[3] / "shared" / "data"
PEERS = Path(__file__).with_name("peers")
SIDE = "224"
DATA = {
    "clothing": ("clothing", "clothing-sub"),
    "sign-digits": ("sign-digits", "sign-digits/Dataset"),
    "cifar10": ("cifar10", "."),
    "imagenette": ("imagenette-train", "."),
}
PER_CLASS = {"cifar10": (100, 100)}  # training and test images of each class; of others, all
BACKBONES = ("efficientnet-lite0", "bit-r26x0.5")
WAYS = ("ours", "tutorial, frozen", "tutorial, fine-tuned", "logistic regression")


def prepared(name: str, folder: Path) -> Path:
    """Link the images of a data set as {train,test}/CLASS/*.jpg, split as `finetune` would."""
    target = folder / name / "images"
    if target.exists():
        return target
    archive, inside = DATA[name]
    with tarfile.open(ARCHIVES / f"{archive}.tar.gz") as tar:
        tar.extractall(folder / name / "unpacked", filter="data")
    root = folder / name / "unpacked" / inside
    if name == "imagenette":
        root = next(root.rglob("train"))
    source = open_source(str(root))
    names = source.info.class_names
    for split, each in zip(("train", "test"), PER_CLASS.get(name, (None, None)), strict=True):
        examples = source.examples(split)
        if each is not None:
            examples = examples.take(few_shot(examples.labels, names, each, 0))
        for number, (label, content) in enumerate(zip(examples.labels, examples.encoded(), strict=True)):
            place = target.with_name("partial") / split / names[label]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:05d}.jpg").write_bytes(content)
    os.rename(target.with_name("partial"), target)
    return target


def module_of(backbone: str, folder: Path) -> tuple[str, str]:
    """Return a SavedModel of the backbone, and the pixel range that it takes."""
    info = describe_backbone(backbone)
    if info.opaque is not None:
        return str(info.path), ",".join(map(str, info.input_range))
    if not (folder / backbone).exists():
        hyperrule.port(backbone, folder / backbone, quiet=True)
    return str(folder / backbone), "0,1"


def measured(way: str, images: Path, minutes: float, backbone: str, folder: Path) -> dict[str, float]:
    start = time.monotonic()
    if way == "ours":
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch, "run")
            options = ["--dataset", images, "--budget", f"{60 * minutes:g}s", "--backbone", backbone, "--out", out]
            command = [sys.executable, "-m", "hyperrule", "finetune", *map(str, options), "--json"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode != 0:
                return {"top1": 0.0, "seconds": time.monotonic() - start, "refused": 1}
            result = json.loads(done.stdout)
            plan = json.loads((out / "plan.json").read_text())
            return {
                "top1": result["top1"],
                "seconds": time.monotonic() - start,
                "size": plan["crop"]["value"],
                "steps": plan["schedule"]["value"]["steps"],
                "backbone": plan["backbone"]["name"],
            }
    module, pixels = module_of(BACKBONES[0] if backbone == "auto" else backbone, folder)
    script, *how = {
        "tutorial, frozen": ("hub_tutorial.py", "frozen"),
        "tutorial, fine-tuned": ("hub_tutorial.py", "fine-tuned"),
        "logistic regression": ("logistic.py",),
    }[way]
    arguments = [module, pixels, images / "train", images / "test", SIDE, str(60 * minutes), *how]
    command = [sys.executable, str(PEERS / script), *map(str, arguments)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(lines: list[dict[str, object]]) -> str:
    cells: dict[tuple[object, ...], dict[str, dict[str, float]]] = {}
    for line in lines:
        key = (line["data"], line["minutes"], line["backbone"])
        cells.setdefault(key, {})[str(line["way"])] = line["result"]  # type: ignore[assignment]
    head = ["data, minutes, backbone", *WAYS, "our seconds", "ahead of the best peer", "ahead of the tutorial"]
    rows = [head, ["---"] + ["--:"] * (len(head) - 1)]
    ahead, of_tutorial = [], []
    for (data, minutes, backbone), found in cells.items():
        if set(WAYS) - found.keys():
            continue
        accuracy = {way: 100 * found[way]["top1"] for way in WAYS}
        ahead.append(accuracy["ours"] - max(accuracy[way] for way in WAYS[1:]))
        of_tutorial.append(accuracy["ours"] - max(accuracy[way] for way in WAYS[1:3]))
        chosen = f"{found['ours'].get('size', '-')} px, {found['ours'].get('steps', '-')} steps"
        rows.append(
            [
                f"{data}, {minutes:g}, {backbone}",
                f"{accuracy['ours']:.1f} ({chosen})",
                *(f"{accuracy[way]:.1f}" for way in WAYS[1:]),
                f"{found['ours']['seconds']:.0f}",
                f"{ahead[-1]:+.1f}",
                f"{of_tutorial[-1]:+.1f}",
            ]
        )
    if ahead:
        rows.append(["mean", *[""] * 5, f"{mean(ahead):+.1f}", f"{mean(of_tutorial):+.1f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", choices=DATA)
    parser.add_argument("--minutes", action="append", type=float)
    parser.add_argument("--backbone", action="append", choices=(*BACKBONES, "auto"))
    parser.add_argument("--ledger", type=Path, default=Path("runs/budget.jsonl"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "hyperrule-budget")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    asked.ledger.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in asked.ledger.read_text().splitlines()] if asked.ledger.exists() else []
    known = {(line["data"], line["minutes"], line["backbone"], line["way"]) for line in lines}
    for minutes in asked.minutes or (1.0, 3.0, 10.0):
        for data in asked.data or DATA:
            images = prepared(data, asked.folder)
            for backbone in asked.backbone or BACKBONES:
                for way in WAYS:
                    if (data, minutes, backbone, way) in known:
                        continue
                    result = measured(way, images, minutes, backbone, asked.folder)
                    lines.append({"data": data, "minutes": minutes, "backbone": backbone, "way": way, "result": result})
                    print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
                    with asked.ledger.open("a") as ledger:
                        ledger.write(json.dumps(lines[-1]) + "\n")
    print(table(lines))


main()
