"""SGD with momentum, for gradients that are summed over the replicas already, and loss scaling around it."""

from typing import Any

import keras

from hyperrule.rule import MOMENTUM

SCALE, GOOD_STEPS = "loss_scale/scale", "loss_scale/good_steps"


class SummedSGD(keras.optimizers.SGD):
    """Keras' SGD without its all-reduce: a step sums its gradients itself, for their norm, and once is enough."""

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars


def make_optimizer(scaled: bool) -> keras.optimizers.Optimizer:
    """SGD as BiT has it, at rate 0; `scaled` for float16, where gradients would be lost below 6e-8.

    The loss scale is 2^15 at first, halved when a gradient overflows (such a step changes nothing), doubled after
    2,000 steps without: Keras' own figures.
    """
    sgd = SummedSGD(learning_rate=0.0, momentum=MOMENTUM)
    return keras.optimizers.LossScaleOptimizer(sgd) if scaled else sgd


def momentums(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Velocities, in the order of the variables that the optimizer was built with."""
    found: list[keras.Variable] = getattr(optimizer, "inner_optimizer", optimizer).momentums
    return found


def scaling_state(optimizer: keras.optimizers.Optimizer) -> dict[str, keras.Variable]:
    """What the loss scale depends on, by name; nothing without loss scaling."""
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return {}
    return {SCALE: optimizer.dynamic_scale, GOOD_STEPS: optimizer.step_counter}
