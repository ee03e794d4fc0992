"""One training step: micro-batches accumulated under tf.distribute, then one SGD update."""

from collections.abc import Iterable
from typing import NamedTuple

import keras
import tensorflow as tf

from hyperrule.backbones.checkpoints import Arrays
from hyperrule.backbones.layers import standardize
from hyperrule.data.pipeline import MicroBatch
from hyperrule.rule import MOMENTUM
from hyperrule.training.classifier import Classifier

VELOCITY = "momentum/"


class StepResult(NamedTuple):
    """Mean softmax cross-entropy of the step's batch and L2 norm of its gradient."""

    loss: float
    gradient_norm: float


class TrainingStep:
    """The classifier, its optimizer, and the functions that move them by one step.

    Kernels are standardised once a step; micro-batches accumulate gradients with respect to the
    standardised kernels, which are pulled back through the standardisation once, at the update.
    Velocity holds the rate inside (v = 0.9 v - lr g; p += v), as Keras and TensorFlow do.

    Variables that do not train are left alone, but for statistics that a backbone keeps itself (batch norm).

    Make it within `strategy.scope()`, with the classifier made there too.
    """

    def __init__(self, classifier: Classifier, strategy: tf.distribute.Strategy, batch: int) -> None:
        self.classifier = classifier
        self.strategy = strategy
        self.batch = batch
        self.training = bool(classifier.backbone.trainable)  # a frozen backbone is run as for inference
        self.optimizer = keras.optimizers.SGD(learning_rate=0.0, momentum=MOMENTUM)
        self.optimizer.build(classifier.trainable_variables)
        # What an update needs: kernels of convolutions first, everything else after.
        self._convolutions = [conv.kernel for conv in classifier.backbone.convolutions]
        self._standardized = {id(kernel): _per_replica(kernel) for kernel in self._convolutions}
        self._kernels = [kernel for kernel in self._convolutions if kernel.trainable]
        self._others = [v for v in classifier.trainable_variables if id(v) not in self._standardized]
        self._gradients = [_per_replica(variable) for variable in self._kernels + self._others]
        self._loss = _per_replica(tf.zeros([]))
        self._begin = tf.function(lambda: strategy.run(self._replica_begin), autograph=False)
        self._accumulate = tf.function(lambda micro: strategy.run(self._replica_accumulate, (micro,)), autograph=False)
        self._update = tf.function(self._reduced_update, autograph=False)

    def begin(self) -> None:
        """Standardise the kernels and clear the accumulators."""
        self._begin()

    def accumulate(self, micro_batch: MicroBatch) -> None:
        """Add the gradient of one micro-batch (per replica under a multi-device strategy)."""
        self._accumulate(micro_batch)

    def update(self, learning_rate: float) -> StepResult:
        """Apply the accumulated gradient."""
        self.optimizer.learning_rate.assign(learning_rate)
        loss, norm = self._update()
        return StepResult(float(loss), float(norm))

    def run(self, micro_batches: Iterable[MicroBatch], learning_rate: float) -> StepResult:
        """One whole step."""
        self.begin()
        for micro_batch in micro_batches:
            self.accumulate(micro_batch)
        return self.update(learning_rate)

    def snapshot(self) -> Arrays:
        """All state that the next step depends on: weights, and velocities under "momentum/"."""
        velocities = {f"{VELOCITY}{name}": velocity.numpy() for name, velocity in self._velocities.items()}
        return {**self.classifier.snapshot(), **velocities}

    def restore(self, arrays: Arrays) -> None:
        """Assign what `snapshot` returned."""
        with self.strategy.scope():
            self.classifier.load(arrays)
            for name, velocity in self._velocities.items():
                velocity.assign(arrays[f"{VELOCITY}{name}"])

    @property
    def _velocities(self) -> dict[str, keras.Variable]:
        by_variable = {
            id(v): m for v, m in zip(self.classifier.trainable_variables, self.optimizer.momentums, strict=True)
        }
        arrays = self.classifier.arrays.items()
        return {name: by_variable[id(variable)] for name, variable in arrays if id(variable) in by_variable}

    def _replica_begin(self) -> None:
        for kernel in self._convolutions:
            self._standardized[id(kernel)].assign(standardize(tf.convert_to_tensor(kernel)))
        for accumulator in [*self._gradients, self._loss]:
            accumulator.assign(tf.zeros_like(accumulator))

    def _replica_accumulate(self, micro: MicroBatch) -> None:
        standardized = {key: tf.convert_to_tensor(kernel) for key, kernel in self._standardized.items()}
        kernels = [standardized[id(kernel)] for kernel in self._kernels]
        others = [variable.value for variable in self._others]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(kernels)
            for variable in others:
                tape.watch(variable)
            with self.classifier.backbone.using_kernels(list(standardized.values())):
                logits = self.classifier(micro.images, training=self.training)
            losses = tf.nn.softmax_cross_entropy_with_logits(micro.targets, logits)
            loss = tf.reduce_sum(losses * micro.weights) / self.batch
        gradients = tape.gradient(loss, kernels + others, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        for accumulator, gradient in zip(self._gradients, gradients, strict=True):
            accumulator.assign_add(gradient)
        self._loss.assign_add(loss)

    def _reduced_update(self) -> tuple[tf.Tensor, tf.Tensor]:
        loss, norm = self.strategy.run(self._replica_update)
        return self.strategy.experimental_local_results(loss)[0], self.strategy.experimental_local_results(norm)[0]

    def _replica_update(self) -> tuple[tf.Tensor, tf.Tensor]:
        replica = tf.distribute.get_replica_context()
        sums = [tf.convert_to_tensor(accumulator) for accumulator in [*self._gradients, self._loss]]
        *gradients, loss = replica.all_reduce(tf.distribute.ReduceOp.SUM, sums)
        with tf.GradientTape() as tape:
            standardized = [standardize(kernel.value) for kernel in self._kernels]
        pulled_back = tape.gradient(
            standardized, [kernel.value for kernel in self._kernels], output_gradients=gradients[: len(self._kernels)]
        )
        gradients = [*pulled_back, *gradients[len(self._kernels) :]]
        if self.training and self.classifier.backbone.regularizers:
            penalty, penalties = self._regularization()
            loss += penalty
            gradients = [gradient + added for gradient, added in zip(gradients, penalties, strict=True)]
        # Keras sums gradients over the replicas; these are summed already.
        replicas = tf.cast(replica.num_replicas_in_sync, tf.float32)
        by_variable = dict(zip(map(id, self._kernels + self._others), gradients, strict=True))
        ordered = [by_variable[id(v)] / replicas for v in self.classifier.trainable_variables]
        self.optimizer.apply(ordered, self.classifier.trainable_variables)
        return loss, tf.linalg.global_norm(gradients)

    def _regularization(self) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The backbone's own penalty, which counts once a step, and its gradients."""
        variables = [variable.value for variable in self._kernels + self._others]
        with tf.GradientTape() as tape:
            penalty = tf.add_n([penalty() for penalty in self.classifier.backbone.regularizers])
        return penalty, tape.gradient(penalty, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def _per_replica(like: tf.Tensor | keras.Variable) -> tf.Variable:
    """A zero variable of which every replica has its own value."""
    return tf.Variable(
        tf.zeros(like.shape),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
