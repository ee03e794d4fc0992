"""The job of `distill`: a student learns a teacher's outputs; agreement, weights and export go to the run folder."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
import tensorflow as tf
from scipy.special import softmax

from hyperrule.backbones.bit.checkpoints import write_arrays
from hyperrule.data.images import Examples
from hyperrule.data.pipeline import training_batches
from hyperrule.data.pool import Pool
from hyperrule.data.preprocess import InceptionAugmentation
from hyperrule.evaluation.agreement import Agreements, Answers, agreement, labels_among
from hyperrule.evaluation.inference import Floats, Pass, write_predictions
from hyperrule.exporting.parity import Parity
from hyperrule.jobs.distill.student import Student, Teacher
from hyperrule.jobs.job import Job
from hyperrule.jobs.result import Distilled
from hyperrule.planning.budget import Clock
from hyperrule.planning.distill import DistillPlan
from hyperrule.reporting.make import finish_run
from hyperrule.run_folder import RunFolder
from hyperrule.support.files import atomic_write
from hyperrule.support.progress import Report, Reporter
from hyperrule.training.classifier import load_weights, make_backbone
from hyperrule.training.optimizer import adamw
from hyperrule.training.step import TrainingStep

SAMPLE, SAMPLE_ON_A_BUDGET = 2_048, 256  # images whose statistics standardise the teacher's features
LEAST_SCALE = 1e-3  # of a feature's scale to the mean scale: a constant feature must not be divided by 0


class Distillation(Job[DistillPlan, Distilled]):
    """Trains a student to match its teacher's logits, features or both, on images without labels."""

    classifier: Student

    def __init__(
        self, plan: DistillPlan, pool: Pool, run: RunFolder, reporter: Reporter, clock: Clock | None = None
    ) -> None:
        super().__init__(plan, run, reporter, clock)
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
        backbone = make_backbone(plan.backbone, plan.precision.value, remat=plan.remat.value)
        self.classifier = student = Student(backbone, Teacher(plan.teacher, plan.precision.value), plan)
        optimizer = adamw(plan.weight_decay.value / plan.base_lr.value, student.undecayed)
        self.step = TrainingStep(student, self.strategy, plan.batch.value, optimizer, xla=plan.xla.value)

    def initialise(self) -> None:
        """Set the student's weights, and the mean and scale of the teacher's features."""
        student = self.classifier
        with self.strategy.scope():
            load_weights(student, self.plan.backbone)  # no head: it means other classes
        if self.matches_features:
            sample = self._sample()
            with self.reporter.stage("Features", len(sample)) as report:
                _, features = self._teacher_outputs(sample, report)
            scale = features.std(axis=0)
            with self.strategy.scope():  # the chief's values: another machine may round differently
                student.mean.assign(self.workers.broadcast(features.mean(axis=0)))
                student.scale.assign(self.workers.broadcast(np.maximum(scale, LEAST_SCALE * scale.mean())))

    def _sample(self) -> Examples:
        training = self.pool.training
        size = SAMPLE if self.plan.recipe.budget is None else SAMPLE_ON_A_BUDGET
        chosen = np.random.default_rng(self.plan.seed.value).permutation(len(training))[:size]
        return training.take(np.sort(chosen))

    def batches(self, micro_batch: int, steps: range) -> tf.data.Dataset:
        plan = self.plan
        side = max(
            plan.crop.value, plan.teacher_crop.value
        )  # of the images, which are resized for the other of the two
        augmentation = InceptionAugmentation(
            side, plan.least_area.value, plan.random_flip.value, 1.0 if plan.mixup.value else 0.0
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

    @cached_property
    def _teacher_pass(self) -> Pass:
        plan, teacher = self.plan, self.classifier.teacher
        columns = (plan.teacher.classes if self.matches_logits else 0) + plan.teacher.features

        def outputs(images: tf.Tensor) -> tf.Tensor:
            logits, features = teacher(images)
            wanted = [logits if self.matches_logits else None, features]
            return tf.concat([each for each in wanted if each is not None], axis=1)

        return Pass(outputs, columns, plan.teacher_crop.value, plan.micro_batch.value, self.workers)

    def _teacher_outputs(self, examples: Examples, report: Report | None = None) -> tuple[Floats, Floats]:
        """Return the teacher's logits [N, classes] and features [N, width] for whole images.

        Either has no columns if it is not matched.
        """
        outputs = self._teacher_pass(examples, report)
        classes = outputs.shape[1] - self.plan.teacher.features
        return outputs[:, :classes], outputs[:, classes:]

    @cached_property
    def _held_out_targets(self) -> tuple[Floats, Floats]:
        """The teacher's logits and features for the held-out images, computed only once."""
        return self._teacher_outputs(self.testing)

    def outputs(self, examples: Examples, report: Report | None = None) -> Floats:
        """Return the student's features, float32 [N, width]."""
        return self.evaluator.features(examples, report)

    def evaluate_on_the_way(self, check: Callable[[], None]) -> dict[str, float]:
        overall = self._agreements(self._answers(self.evaluate(self.testing, check))).overall
        self.reporter.say(f"The student {overall}.")
        return overall.figures

    def _answers(self, features: Floats) -> Answers:
        """Return the teacher's and the student's answers for the held-out images, from the student's `features`."""
        student, (logits, targets) = self.classifier, self._held_out_targets
        norms = np.linalg.norm(features, axis=1)
        errors = student.feature_errors(targets, features).numpy() if self.matches_features else None
        if not self.matches_logits:
            return Answers(None, None, errors, norms)
        return Answers(logits, student.head(features).numpy(), errors, norms)

    def _agreements(self, answers: Answers) -> Agreements:
        data_sets = self.testing.labels
        labels = labels_among(self.pool.class_names, data_sets, self.plan.classes)
        parts = self.pool.info.parts
        return Agreements(
            overall=agreement("all", answers, labels),
            by_data_set=tuple(
                agreement(part.name, answers.of(data_sets == number), labels[data_sets == number])
                for number, part in enumerate(parts)
                if (data_sets == number).any()
            ),
        )

    def conclude(self) -> Distilled:
        answers = self._answers(self.evaluate(self.testing))
        if (norm := self.plan.feature_norm.value) is not None:
            factor = norm / float(answers.norms.mean())
            with self.strategy.scope():
                self.classifier.scale_features(factor)
            answers = replace(answers, norms=factor * answers.norms)
        agreements = self._agreements(answers)
        parity = self._write(answers, agreements) if self.workers.chief else None
        text = self.workers.texts(parity.model_dump_json() if parity is not None else "")[0]  # the others wait here
        return Distilled(self.run, self.plan, Parity.model_validate_json(text) if text else None, agreements)

    def _write(self, answers: Answers, agreements: Agreements) -> Parity | None:
        run, parity = self.run, None
        with atomic_write(run.weights_file) as partial:
            write_arrays(partial, self.classifier.bit_arrays(with_head=self.matches_logits))
        run.write(run.eval_file, agreements.model_dump_json(indent=2) + "\n")
        if answers.teacher is not None:
            probabilities = softmax(answers.student, axis=1)
            chosen = answers.teacher.argmax(axis=1).astype(np.int32)
            by_teacher = Examples(self.testing.ids, chosen, self.testing.contents)
            write_predictions(run.predictions_file, by_teacher, probabilities, self.plan.class_names)
            parity = self.export(by_teacher, probabilities)
        finish_run(run, self.reporter)
        return parity
