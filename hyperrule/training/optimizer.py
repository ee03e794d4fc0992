"""SGD with momentum and AdamW, for gradients that are already summed over the replicas; loss scaling around them."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from hyperrule.rule import MOMENTUM

CLIP = 1.0  # global norm of the gradient, arXiv 2106.05237, section 3
SCALE, GOOD_STEPS = "loss_scale/scale", "loss_scale/good_steps"


class _Summed:
    """Skips Keras' all-reduce: a training step has summed its gradients already, to compute their norm."""

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars


class SummedSGD(_Summed, keras.optimizers.SGD):
    """Keras' SGD, without its all-reduce."""


class SummedAdamW(_Summed, keras.optimizers.AdamW):
    """Keras' AdamW, without its all-reduce."""


def sgd() -> SummedSGD:
    """Return BiT's SGD with momentum; each step sets the learning rate, which is 0 at first."""
    return SummedSGD(learning_rate=0.0, momentum=MOMENTUM)


def adamw(decay_to_rate: float, undecayed: Sequence[keras.Variable]) -> SummedAdamW:
    """Return AdamW with gradients clipped to a global norm of 1; each step sets the learning rate, 0 at first.

    Moments and epsilon are Keras' defaults (0.9, 0.999, 1e-7). A step at rate r subtracts the fraction
    r x `decay_to_rate` from every variable that is not in `undecayed`.
    """
    optimizer = SummedAdamW(learning_rate=0.0, weight_decay=decay_to_rate, global_clipnorm=CLIP)
    optimizer.exclude_from_weight_decay(var_list=list(undecayed))
    return optimizer


def with_loss_scaling(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.LossScaleOptimizer:
    """Add loss scaling to an optimizer for float16, in which gradients below 6e-8 are lost.

    The loss scale starts at 2^15. It is halved when a gradient overflows, in a step that changes nothing, and doubled
    after 2,000 steps without overflow: Keras' defaults.
    """
    return keras.optimizers.LossScaleOptimizer(optimizer)


def optimizer_state(
    optimizer: keras.optimizers.Optimizer, trained: Mapping[str, keras.Variable]
) -> dict[str, keras.Variable]:
    """Return the optimizer's state by name.

    `trained` has the variables that the optimizer was built with, in that order, by name.
    """
    state: dict[str, keras.Variable] = {}
    own = optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        state = {SCALE: optimizer.dynamic_scale, GOOD_STEPS: optimizer.step_counter}
        own = optimizer.inner_optimizer
    if isinstance(own, keras.optimizers.SGD):
        return _named("momentum", trained, own.momentums) | state
    moments = _named("adam/first", trained, own._momentums) | _named("adam/second", trained, own._velocities)
    return moments | {"adam/updates": own.iterations} | state


def _named(kind: str, trained: Mapping[str, keras.Variable], slots: Sequence[keras.Variable]) -> dict[str, Any]:
    return {f"{kind}/{name}": slot for name, slot in zip(trained, slots, strict=True)}
