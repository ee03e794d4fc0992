"""The texts and figures on pages and cards of a distillation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from hyperrule.evaluation.agreement import Agreements, headline
from hyperrule.exporting.parity import read_parities
from hyperrule.planning.distill import DistillPlan
from hyperrule.reporting.finished_run import FinishedRun, damage, read_log
from hyperrule.reporting.markdown import bullets, decimal, percentage, sentence, shown_decision, skipped_images, table
from hyperrule.run_folder import RunFolder
from hyperrule.support.wording import escape_markdown, number


@dataclass(frozen=True)
class DistilledRun(FinishedRun):
    plan: DistillPlan
    agreements: Agreements

    TEMPLATE: ClassVar = "reporting/distilled.html"

    @classmethod
    def read(cls, folder: RunFolder) -> Self:
        plan, exports = folder.read_plan_of(DistillPlan), tuple(read_parities(folder.parity_file).values())
        with damage(folder.eval_file):
            agreements = Agreements.model_validate_json(folder.eval_file.read_text(encoding="utf-8"))
        return cls(folder, plan, read_log(folder), exports, agreements)

    @property
    def title(self) -> str:
        return f"{self.plan.backbone.architecture}, distilled from {self.plan.teacher.name}"

    @property
    def headline(self) -> str:
        return headline(self.agreements.overall)

    def page_values(self) -> dict[str, Any]:
        return {
            "headline": self.headline,
            "agreements": (self.agreements.overall, *self.agreements.by_data_set),
        }

    def card_sections(self, trained: str) -> Iterator[str]:
        plan, agreements = self.plan, self.agreements
        yield f"# {plan.backbone.architecture}, distilled from {escape_markdown(plan.teacher.name)}"
        yield f"{sentence(self.headline)}."
        yield (
            f"A small BiT trained to imitate a large network, by function matching (arXiv 2106.05237), on "
            f"{number(plan.examples.value, 'image')} without labels. {trained}"
        )
        yield "## Held-out images"
        yield table(
            ["data set", "images", "agreement", "KL", "features", "teacher's top-1", "student's top-1"],
            [
                [escape_markdown(each.name), str(each.examples), percentage(each.top1_agreement), decimal(each.kl)]
                + [percentage(value) for value in (each.features_r2, each.teacher_top1, each.student_top1)]
                for each in (agreements.overall, *agreements.by_data_set)
            ],
        )
        yield "## Pool"
        yield table(
            ["data set", "kind", "images", "held out", "sha256"],
            [
                [escape_markdown(part.name), part.kind, str(part.examples), str(part.held_out), part.sha256[:16]]
                for part in plan.pool.parts
            ],
        )
        skipped = {
            f"{part.name}/{image}": problem for part in plan.pool.parts for image, problem in part.skipped.items()
        }
        yield from skipped_images(skipped)
        yield "## Decisions"
        yield bullets(
            f"{name}: {shown_decision(made.value)} ({escape_markdown(made.reason)})"
            for name, made in plan.decisions.items()
        )
        if not self.exports:
            yield "No classifier was exported: the student gives features."

    def card_ending(self) -> Iterator[str]:
        yield (
            "`weights.npz` is a BiT checkpoint: `hyperrule finetune --backbone` takes this folder, `hyperrule port` "
            "converts it to a hub module."
        )

    def measured_on_the_same(self, other: Self) -> bool:
        return self.plan.pool == other.plan.pool

    @classmethod
    def side_by_side(cls, names: Sequence[str], runs: Sequence[Self]) -> dict[str, Any]:
        return {"agreements": [run.agreements.overall for run in runs]}
