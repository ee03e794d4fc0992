"""The job: pool -> teacher and student -> training -> agreement -> weights and export, each into the run folder."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from pydantic import BaseModel, ConfigDict
from scipy.special import softmax

from hyperrule.backbones.checkpoints import StoredArrays, write_arrays
from hyperrule.backbones.resnet_v2 import ResNetV2
from hyperrule.data import Examples
from hyperrule.data.augmentation import InceptionAugmentation
from hyperrule.data.pipeline import training_batches
from hyperrule.data.pool import Pool
from hyperrule.distillation.agreement import COLUMNS, Agreement, agreement, judge, labels_among
from hyperrule.distillation.student import Student
from hyperrule.distillation.summary import summary
from hyperrule.distillation.teacher import Teacher
from hyperrule.errors import RunFolderError
from hyperrule.evaluation.evaluate import Evaluator
from hyperrule.evaluation.predictions import write_predictions
from hyperrule.export.parity import Parity
from hyperrule.files import whole_file
from hyperrule.job import Job
from hyperrule.planning.distill_plan import DistillPlan
from hyperrule.planning.training_plan import Calibration
from hyperrule.progress import Report, Reporter
from hyperrule.run_folder import RunFolder, free_run_folder
from hyperrule.training.classifier import POLICIES
from hyperrule.training.optimizer import adamw
from hyperrule.training.step import TrainingStep

SAMPLE = 2_048  # images by which the teacher's features are standardised
LEAST_SCALE = 1e-3  # of a feature, against the mean of all: one that never moves must not be divided by 0


class Agreements(BaseModel):
    """Over all held-out images, and by data set."""

    model_config = ConfigDict(frozen=True)

    overall: Agreement
    by_data_set: tuple[Agreement, ...]


@dataclass(frozen=True)
class Distilled:
    """A finished distillation: its folder, its plan, its figures; `parity` is None where there is no classifier."""

    run: RunFolder
    plan: DistillPlan
    agreements: Agreements
    parity: Parity | None


class Distillation(Job[DistillPlan, Distilled]):
    """A student that learns to be like its teacher, on images without labels."""

    classifier: Student

    def __init__(self, plan: DistillPlan, pool: Pool, run: RunFolder, reporter: Reporter) -> None:
        super().__init__(plan, run, reporter)
        self.pool = pool
        self.matches_logits = plan.logits_weight.value > 0
        self.matches_features = plan.features_weight.value > 0

    @property
    def testing(self) -> Examples:
        return self.pool.held_out

    @property
    def used(self) -> list[Examples]:
        return [self.pool.training, self.pool.held_out]

    def build(self) -> None:
        plan = self.plan
        assert plan.backbone.network is not None
        backbone = ResNetV2(plan.backbone.network, POLICIES[plan.precision.value], remat=plan.remat.value)
        self.classifier = student = Student(backbone, Teacher(plan.teacher, plan.precision.value), plan)
        optimizer = adamw(plan.weight_decay.value / plan.base_learning_rate.value, student.undecayed)
        self.step = TrainingStep(student, self.strategy, plan.batch.value, optimizer, xla=plan.xla.value)

    def initialise(self) -> None:
        """The student's weights, and the scale of the teacher's features."""
        student = self.classifier
        if self.plan.backbone.path is not None:
            with self.strategy.scope(), StoredArrays(Path(self.plan.backbone.path)) as arrays:
                student.load_weights_of(arrays)
        if self.matches_features:
            sample = self._sample()
            teach = self._seen_by_both.compiled(lambda images: student.lesson(images).features)
            with self.reporter.stage("Features", len(sample)) as report:
                features = self._seen_by_both.over_all(teach, self.plan.teacher.features, sample, report)
            scale = features.std(axis=0)
            with self.strategy.scope():  # the chief's: another machine may round otherwise
                student.mean.assign(self.workers.broadcast(features.mean(axis=0)))
                student.scale.assign(self.workers.broadcast(np.maximum(scale, LEAST_SCALE * scale.mean())))

    def _sample(self) -> Examples:
        training = self.pool.training
        chosen = np.random.default_rng(self.plan.seed.value).permutation(len(training))[:SAMPLE]
        return training.take(np.sort(chosen))

    def batches(self, micro_batch: int, steps: range) -> tf.data.Dataset:
        plan = self.plan
        augmentation = InceptionAugmentation(
            self._side, plan.least_area.value, plan.random_flip.value, 1.0 if plan.mixup.value else 0.0
        )
        return training_batches(
            self.pool.training,
            len(self.pool.info.parts),
            augmentation,
            plan.batch.value,
            micro_batch,
            steps,
            plan.seed.value,
            shard=self.workers.shard,
            shares=plan.shares.value,
        )

    @property
    def _side(self) -> int:
        """Of the pixels that both see, the larger crop."""
        return max(self.plan.crop.value, self.plan.teacher_crop.value)

    @cached_property
    def _seen_by_both(self) -> Evaluator:
        return Evaluator(self.classifier, self._side, self.plan.micro_batch.value, self.workers)

    @cached_property
    def _judge(self) -> Callable[[tf.Tensor], tf.Tensor]:
        evaluator, student = self._seen_by_both, self.classifier

        def judged(images: tf.Tensor) -> tf.Tensor:
            lesson = student.lesson(images)
            features = evaluator.copy.features(student.pixels(images))
            logits = evaluator.copy.head(features) if self.matches_logits else None
            errors = student.feature_errors(lesson, features) if self.matches_features else None
            return judge(lesson, logits, errors, features)

        return evaluator.compiled(judged)

    def outputs(self, examples: Examples, report: Report | None = None) -> npt.NDArray[np.float32]:
        """What `judge` says."""
        return self._seen_by_both.over_all(self._judge, COLUMNS, examples, report)

    def evaluate_on_the_way(self, check: Callable[[], None]) -> dict[str, float]:
        overall = self._agreements(self.evaluate(self.testing, check)).overall
        self.reporter.say(f"The student {overall}.")
        return overall.figures

    def _agreements(self, judged: npt.NDArray[np.float32]) -> Agreements:
        data_sets = self.testing.labels
        labels = labels_among(self.pool.class_names, data_sets, self.plan.classes)

        def of(name: str, members: npt.NDArray[np.bool_]) -> Agreement:
            return agreement(name, judged[members], labels[members], self.matches_logits, self.matches_features)

        parts = self.pool.info.parts
        return Agreements(
            overall=of("all", np.ones(len(judged), bool)),
            by_data_set=tuple(
                of(part.name, data_sets == number) for number, part in enumerate(parts) if (data_sets == number).any()
            ),
        )

    def conclude(self) -> Distilled:
        judged = self.evaluate(self.testing)
        agreements = self._agreements(judged)
        if (norm := self.plan.feature_norm.value) is not None:
            with self.strategy.scope():
                self.classifier.scale_features(norm / agreements.overall.feature_norm)
        logits = self.evaluator.logits(self.testing) if self.matches_logits else None
        parity = self._write(judged, logits, agreements) if self.workers.chief else None
        told = self.workers.texts(parity.model_dump_json() if parity is not None else "")[0]  # the others wait here
        return Distilled(self.run, self.plan, agreements, Parity.model_validate_json(told) if told else None)

    def _write(
        self, judged: npt.NDArray[np.float32], logits: npt.NDArray[np.float32] | None, agreements: Agreements
    ) -> Parity | None:
        run, parity = self.run, None
        with whole_file(run.weights_file) as partial:
            write_arrays(partial, self.classifier.bit_arrays(with_head=self.matches_logits))
        run.write(run.eval_file, agreements.model_dump_json(indent=2) + "\n")
        if logits is not None:
            probabilities = softmax(logits, axis=1)
            by_teacher = Examples(self.testing.ids, judged[:, 1].astype(np.int32), self.testing.contents)
            write_predictions(run.predictions_file, by_teacher, probabilities, self.plan.class_names)
            parity = self.export(probabilities)
        run.write(run.summary_file, summary(self.plan, agreements.overall, agreements.by_data_set, parity))
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # only now: until the summary is there, they are the run
        return parity


def run_distillation(plan: DistillPlan, pool: Pool, run: RunFolder | None, reporter: Reporter) -> Distilled:
    """Execute a plan into a new run folder, under runs/ if none is given. Raises as `finetuning.run_plan` does."""
    run = run or RunFolder(free_run_folder(f"{plan.teacher.name}-{plan.backbone.architecture}".lower()))
    return Distillation(plan, pool, run, reporter).execute(resuming=False)


def resume_distillation(
    plan: DistillPlan, pool: Pool, run: RunFolder, calibration: Calibration | None, reporter: Reporter
) -> Distilled:
    """Go on with the run in a folder, as `finetuning.resume_run` does."""
    return Distillation(plan, pool, run, reporter).execute(resuming=True, calibration=calibration)


def folder_distilled(run: RunFolder) -> Distilled:
    """The result of a finished run, from its files."""
    plan = run.read_plan()
    if not isinstance(plan, DistillPlan):
        raise RunFolderError(f"{run.path} holds a fine-tuning, not a distillation.")
    agreements = Agreements.model_validate_json(run.eval_file.read_text(encoding="utf-8"))
    told = run.parity_file.read_text(encoding="utf-8") if run.parity_file.exists() else None
    return Distilled(run, plan, agreements, None if told is None else Parity.model_validate_json(told))
