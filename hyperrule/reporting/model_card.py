"""model_card.md in the form that Hugging Face's hub reads: front matter with the figures, then text for people.

Form: https://huggingface.co/docs/hub/model-cards.
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
    """Markdown."""
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
        f"Trained for {number(plan.steps, 'step')} of {plan.batch.value} at {decisions['crop'].value} px, "
        f"base rate {decisions['base_lr'].value:g}, seed {plan.seed.value}, {plan.precision.value}"
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
        "The SavedModel lies in `export/saved_model/1`, as TensorFlow Serving wants it, and needs TensorFlow only. Its "
        "signatures, N being any number:"
    )
    yield table(
        ["signature", "input", "dtype and shape", "meaning"],
        [
            ["`serving_default`", "`image_bytes`", "string [N]", "each a JPEG, PNG, GIF, BMP or WebP of any size"],
            ["`images`", "`images`", "uint8 [N, height, width, 3]", "RGB from 0 to 255, of any size"],
        ],
    )
    yield "Both resize and scale the images themselves, and return"
    yield table(
        ["output", "dtype and shape", "meaning"],
        [
            ["`label`", "string [N]", "the likeliest class"],
            ["`score`", "float32 [N]", "its probability"],
            ["`probabilities`", "float32 [N, classes]", "of all classes, calibrated"],
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
    yield "SHA-256 of what went in:\n\n" + bullets(filter(None, hashes))


def overflows(run: RunFolder) -> str:
    """Steps whose float16 gradient overflowed, where there were any."""
    count = sum(bool(line.get("overflow")) for line in run.read_metrics())
    return f" ({number(count, 'step')} skipped, whose gradient overflowed)" if count else ""
