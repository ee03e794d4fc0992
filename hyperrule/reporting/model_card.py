"""Writes model_card.md in the format of the Hugging Face hub: front matter with the figures, then text for people.

Format: https://huggingface.co/docs/hub/model-cards.
"""

from collections.abc import Iterator
from typing import Any

import yaml

from hyperrule.backbones.zoo import find
from hyperrule.exporting.parity import Parity
from hyperrule.reporting.commands import command_of, snippets
from hyperrule.reporting.finished_run import FinishedRun
from hyperrule.reporting.markdown import bullets, fenced, percentage, table
from hyperrule.run_folder import RunFolder
from hyperrule.support.wording import number


def model_card(run: FinishedRun) -> str:
    """Return the card as Markdown."""
    sections = [*run.card_sections(_trained(run)), *_exports(run.exports), *_repeat(run), *run.card_ending()]
    front = yaml.safe_dump(_front_matter(run), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(run: FinishedRun) -> dict[str, Any]:
    plan = run.plan
    front: dict[str, Any] = {"library_name": "tensorflow"}
    if run.is_classifier:
        front["pipeline_tag"] = "image-classification"
    front["tags"] = ["hyperrule", "big-transfer", *(["distillation"] if plan.job == "distill" else [])]
    if (released := find(plan.backbone.name)) is not None and plan.backbone.kind in ("bucket", "hub"):
        front["base_model"] = released.name
    return front | run.front_matter()


def _trained(run: FinishedRun) -> str:
    plan, decisions = run.plan, run.plan.decisions
    versions = ", ".join(f"{name} {version}" for name, version in plan.versions.items())
    return (
        f"Trained for {number(plan.steps, 'step')} of {plan.batch.value} images at {decisions['crop'].value} px, "
        f"base learning rate {decisions['base_lr'].value:g}, seed {plan.seed.value}, {plan.precision.value}"
        f"{overflows(run.folder)}; {versions}."
    )


def _exports(exports: tuple[Parity, ...]) -> Iterator[str]:
    if not exports:
        return
    yield "## Exports"
    yield table(
        ["export", "images compared", "same class", "largest difference"],
        [
            [
                one.name,
                str(one.examples),
                percentage(one.top1_agreement),
                f"{one.largest_difference:.1e}",
            ]
            for one in exports
        ],
    )
    yield (
        "The SavedModel is in `export/saved_model/1`, where TensorFlow Serving expects it, and needs TensorFlow only. "
        "Its signatures, for any number N of images:"
    )
    yield table(
        ["signature", "input", "dtype and shape", "meaning"],
        [
            [
                "`serving_default`",
                "`image_bytes`",
                "string [N]",
                "encoded JPEG, PNG, GIF, BMP or WebP images of any size",
            ],
            ["`images`", "`images`", "uint8 [N, height, width, 3]", "RGB from 0 to 255, of any size"],
        ],
    )
    yield "Both signatures resize and scale the images themselves, and return"
    yield table(
        ["output", "dtype and shape", "meaning"],
        [
            ["`label`", "string [N]", "the most probable class"],
            ["`score`", "float32 [N]", "its probability"],
            ["`probabilities`", "float32 [N, classes]", "calibrated probabilities of all classes"],
            ["`class_names`", "string [N, classes]", "their names, the same in every row"],
        ],
    )


def _repeat(run: FinishedRun) -> Iterator[str]:
    plan = run.plan
    yield "## Use it"
    for snippet in snippets(run.folder, classifier=bool(run.exports)):
        yield f"{snippet.title}:\n\n{fenced(snippet.text, snippet.language)}"
    yield "## Repeat it"
    yield fenced(f"{command_of(plan.recipe)}\n", "sh")
    hashes = [f"data: `{plan.data_sha256}`", f"backbone: `{plan.backbone.sha256}`" if plan.backbone.sha256 else ""]
    yield "SHA-256 of the inputs:\n\n" + bullets(filter(None, hashes))


def overflows(run: RunFolder) -> str:
    """Return the number of steps whose float16 gradient overflowed, in words; "" for none."""
    count = sum(bool(line.get("overflow")) for line in run.read_metrics())
    return f" ({number(count, 'step')} skipped because the gradient overflowed)" if count else ""
