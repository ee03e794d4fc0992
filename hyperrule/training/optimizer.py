"""SGD with momentum and AdamW, for gradients that are already summed over the replicas; loss scaling around them."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from hyperrule.rule import MOMENTUM

CLIP = 1.0  # global norm of the gradient, arXiv 2106.05237, section 3
SCALE, GOOD_STEPS = "loss_scale/scale", "loss_scale/good_steps"


class _Summed:
    """Without Keras' all-reduce: a step sums its gradients itself, for their norm, and once is enough."""

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars


class SummedSGD(_Summed, keras.optimizers.SGD):
    """Keras' own, without its all-reduce."""


class SummedAdamW(_Summed, keras.optimizers.AdamW):
    """Keras' own, without its all-reduce."""


def sgd() -> SummedSGD:
    """As BiT has it, at rate 0."""
    return SummedSGD(learning_rate=0.0, momentum=MOMENTUM)


def adamw(decay_to_rate: float, undecayed: Sequence[keras.Variable]) -> SummedAdamW:
    """With gradients clipped to a global norm of 1, at rate 0; moments and epsilon are Keras' own (0.9, 0.999, 1e-7).

    A step at rate r takes r x `decay_to_rate` off every variable that is not among the `undecayed`.
    """
    optimizer = SummedAdamW(learning_rate=0.0, weight_decay=decay_to_rate, global_clipnorm=CLIP)
    optimizer.exclude_from_weight_decay(var_list=list(undecayed))
    return optimizer


def with_loss_scaling(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.LossScaleOptimizer:
    """For float16, where gradients would be lost below 6e-8.

    The loss scale is 2^15 at first, halved when a gradient overflows (such a step changes nothing), doubled after
    2,000 steps without: Keras' own figures.
    """
    return keras.optimizers.LossScaleOptimizer(optimizer)


def optimizer_state(
    optimizer: keras.optimizers.Optimizer, trained: Mapping[str, keras.Variable]
) -> dict[str, keras.Variable]:
    """What the next update depends on, by name; `trained` are the variables that the optimizer was built with, in
    that order, by theirs."""
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
