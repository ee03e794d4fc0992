"""One training step: gradients accumulated over its micro-batches under tf.distribute, then one update."""

import math
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from hyperrule.backbones.backbone import using_kernels
from hyperrule.backbones.bit.checkpoints import State
from hyperrule.backbones.bit.layers import standardize
from hyperrule.data.pipeline import MicroBatch
from hyperrule.training.classifier import Classifier
from hyperrule.training.optimizer import optimizer_state, sgd, with_loss_scaling

Gradients = tuple[tf.Tensor, list[tf.Tensor]]  # loss; gradients for standardised kernels, then for other variables


class StepResult(NamedTuple):
    """Mean loss of the step's batch and L2 norm of its gradient; in float16 also the loss scale.

    If the gradient overflowed, its norm is not finite, and the step has changed no weight.
    """

    loss: float
    gradient_norm: float
    loss_scale: float | None = None

    @property
    def overflowed(self) -> bool:
        return self.loss_scale is not None and not math.isfinite(self.gradient_norm)


class TrainingStep:
    """Trains a classifier: `accumulate` micro-batches, then `update` the weights once.

    A step of one micro-batch is one graph. In a step of several, kernels are standardised once. Micro-batches
    accumulate gradients with respect to the standardised kernels; at the update, these are backpropagated through the
    standardisation once. The learning rate is inside the velocity (v = 0.9 v - lr g; p += v), as in Keras and
    TensorFlow. The loss is scaled if the network computes in float16. Variables that do not train keep their values,
    except for statistics that a backbone updates itself (batch norm).

    Create it within `strategy.scope()`, like the classifier and the optimizer (by default BiT's SGD). `batch` is the
    number of examples in a step, over all devices. `xla` compiles the gradient's graph.
    """

    def __init__(
        self,
        classifier: Classifier,
        strategy: tf.distribute.Strategy,
        batch: int,
        optimizer: keras.optimizers.Optimizer | None = None,
        *,
        xla: bool = False,
    ) -> None:
        self.classifier = classifier
        self.strategy = strategy
        self.batch = batch
        self.training = bool(classifier.backbone.trainable)  # a frozen backbone runs as in inference
        self.scaled = classifier.backbone.compute_dtype == "float16"
        optimizer = optimizer or sgd()
        self.optimizer = with_loss_scaling(optimizer) if self.scaled else optimizer
        self.optimizer.build(classifier.trainable_variables)
        # Trainable variables: kernels of convolutions first, all others after them.
        self._convolutions = [conv.kernel for conv in classifier.backbone.convolutions]
        convolutions = set(map(id, self._convolutions))
        self._kernels = [kernel for kernel in self._convolutions if kernel.trainable]
        self._others = [v for v in classifier.trainable_variables if id(v) not in convolutions]
        self._gradients: Callable[..., Gradients] = (
            tf.function(self._gradients_of, autograph=False, jit_compile=True) if xla else self._gradients_of
        )
        self._whole = self._on_all_replicas(self._replica_whole)
        self._begin = self._on_all_replicas(self._replica_begin)
        self._accumulate = self._on_all_replicas(self._replica_accumulate)
        self._update = self._on_all_replicas(self._replica_update)
        self._waiting: MicroBatch | None = None
        self._begun = False

    def accumulate(self, micro_batch: MicroBatch) -> None:
        """Add one micro-batch (a per-replica one under a multi-device strategy) to the step.

        Images are float32 [M, H, W, 3] in [0, 1]; see `MicroBatch`.
        """
        if self._waiting is not None:  # so the step has more than one micro-batch
            self.flush()
        self._waiting = micro_batch

    def update(self, learning_rate: float) -> StepResult:
        """Apply the gradient of all accumulated micro-batches, and begin the next step."""
        self.optimizer.learning_rate.assign(learning_rate)
        scale = float(self.optimizer.dynamic_scale.numpy()) if self.scaled else None
        if self._waiting is not None and not self._begun:
            results = self._whole(self._waiting)
        else:
            self.flush()
            results = self._update()
        self.discard()
        loss, norm = (self.strategy.experimental_local_results(result)[0] for result in results)
        return StepResult(float(loss), float(norm), scale)

    def flush(self) -> None:
        """Compute the gradients of all accumulated micro-batches, so that only the update remains."""
        if not self._begun:
            _ = self._sums  # creates variables, which must happen outside of a graph
            self._begin()
            self._begun = True
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._accumulate(waiting)

    def discard(self) -> None:
        """Drop all accumulated micro-batches."""
        self._waiting, self._begun = None, False

    def run(self, micro_batches: Iterable[MicroBatch], learning_rate: float) -> StepResult:
        """Run one whole step."""
        for micro_batch in micro_batches:
            self.accumulate(micro_batch)
        return self.update(learning_rate)

    def snapshot(self) -> State:
        """Return all state that the next step depends on: weights and optimizer state."""
        return {**self.classifier.snapshot(), **{name: variable.numpy() for name, variable in self._state.items()}}

    def restore(self, arrays: State) -> None:
        """Assign what `snapshot` returned."""
        with self.strategy.scope():
            self.classifier.load(arrays)
            for name, variable in self._state.items():
                variable.assign(arrays[name])

    @property
    def _state(self) -> dict[str, keras.Variable]:
        """The optimizer's state by array name."""
        names = {id(variable): name for name, variable in self.classifier.arrays.items()}
        trained = {names[id(variable)]: variable for variable in self.classifier.trainable_variables}
        return optimizer_state(self.optimizer, trained)

    def _on_all_replicas(self, function: Callable[..., Any]) -> Callable[..., Any]:
        compiled: Callable[..., Any] = tf.function(lambda *args: self.strategy.run(function, args), autograph=False)
        return compiled

    def _replica_whole(self, micro: MicroBatch) -> tuple[tf.Tensor, tf.Tensor]:
        loss, gradients = self._gradients(micro, [standardize(kernel.value) for kernel in self._convolutions])
        return self._apply(loss, gradients)

    def _replica_begin(self) -> None:
        for standardized, kernel in zip(self._sums.standardized, self._convolutions, strict=True):
            standardized.assign(standardize(kernel.value))
        for total in (*self._sums.gradients, self._sums.loss):
            total.assign(tf.zeros_like(total))

    def _replica_accumulate(self, micro: MicroBatch) -> None:
        loss, gradients = self._gradients(micro, [tf.convert_to_tensor(kernel) for kernel in self._sums.standardized])
        for total, gradient in zip(self._sums.gradients, gradients, strict=True):
            total.assign_add(gradient)
        self._sums.loss.assign_add(loss)

    def _replica_update(self) -> tuple[tf.Tensor, tf.Tensor]:
        # A variable's tensor is not placed on a device, as collectives between workers need.
        loss, *gradients = (tf.identity(total) for total in (self._sums.loss, *self._sums.gradients))
        return self._apply(loss, gradients)

    def _gradients_of(self, micro: MicroBatch, standardized: list[tf.Tensor]) -> Gradients:
        """Return the micro-batch's share of the batch's loss and its gradient, both multiplied by the loss scale."""
        by_kernel = dict(zip(map(id, self._convolutions), standardized, strict=True))
        sources = [by_kernel[id(kernel)] for kernel in self._kernels] + [variable.value for variable in self._others]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for source in sources:
                tape.watch(source)
            with using_kernels(self.classifier.backbone.convolutions, standardized):
                losses = self.classifier.losses_of(micro, training=self.training)
            loss = tf.reduce_sum(losses * micro.weights) / self.batch
            if self.scaled:
                loss = self.optimizer.scale_loss(loss)
        return loss, tape.gradient(loss, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def _apply(self, loss: tf.Tensor, gradients: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Sum over replicas, backpropagate through the standardisation, and update.

        Returns the batch's loss and the L2 norm of its gradient.
        """
        replica = tf.distribute.get_replica_context()
        *gradients, loss = replica.all_reduce(tf.distribute.ReduceOp.SUM, [*gradients, loss])
        kernels = [kernel.value for kernel in self._kernels]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for kernel in kernels:
                tape.watch(kernel)
            standardized = [standardize(kernel) for kernel in kernels]
        pulled_back = tape.gradient(standardized, kernels, output_gradients=gradients[: len(kernels)])
        gradients = [*pulled_back, *gradients[len(kernels) :]]
        if self.training and self.classifier.backbone.regularizers:
            penalty, penalties = self._regularization()
            loss += penalty
            gradients = [gradient + added for gradient, added in zip(gradients, penalties, strict=True)]
        by_variable = dict(zip(map(id, self._kernels + self._others), gradients, strict=True))
        trained = self.classifier.trainable_variables
        norm = tf.linalg.global_norm(gradients)
        if self.scaled:
            loss, norm = loss / self.optimizer.dynamic_scale, norm / self.optimizer.dynamic_scale
        # All gradients are computed before any variable changes: if memory runs out, the step can start again.
        with tf.control_dependencies([loss, norm]):
            ordered = [tf.identity(by_variable[id(variable)]) for variable in trained]
        self.optimizer.apply(ordered, trained)
        return loss, norm

    def _regularization(self) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Return the backbone's regularisation loss, added once a step, and its gradients."""
        variables = [variable.value for variable in self._kernels + self._others]
        with tf.GradientTape() as tape:
            penalty = tf.add_n([penalty() for penalty in self.classifier.backbone.regularizers])
        return penalty, tape.gradient(penalty, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    @cached_property
    def _sums(self) -> "_Sums":
        """The sums of a step of several micro-batches; not allocated for steps of one."""
        with self.strategy.scope():
            return _Sums(
                standardized=[_per_replica(kernel) for kernel in self._convolutions],
                gradients=[_per_replica(variable) for variable in self._kernels + self._others],
                loss=_per_replica(tf.zeros([])),
            )


class _Sums(NamedTuple):
    """Standardised kernels, sums of gradients, sum of losses; every replica has its own values."""

    standardized: list[tf.Variable]
    gradients: list[tf.Variable]
    loss: tf.Variable


def _per_replica(like: tf.Tensor | keras.Variable) -> tf.Variable:
    """Create a zero variable of the same shape with a separate value on every replica."""
    return tf.Variable(
        tf.zeros(like.shape),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
