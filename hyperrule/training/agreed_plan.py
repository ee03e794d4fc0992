"""One plan for all workers: the chief's, which must be everybody's but for how much a device takes at once."""

from typing import TypeVar

from hyperrule.errors import UserError
from hyperrule.planning.training_plan import TrainingPlan
from hyperrule.training.workers import Workers

P = TypeVar("P", bound=TrainingPlan)


def agreed(plan: P, workers: Workers) -> P:
    """This worker's plan, with the smallest micro-batch, and remat if any needs it.

    Raises UserError, on all workers, if they would not do the same: other images, weights or options.
    """
    if workers.count == 1:
        return plan
    plans = [type(plan).model_validate_json(text) for text in workers.texts(plan.model_dump_json())]
    for index, other in enumerate(plans):
        differences = plans[0].differences(other)
        if plans[0].xla.value != other.xla.value:  # with it, operations are not deterministic
            differences.append(f"xla: {plans[0].xla.value}, not {other.xla.value}")
        if differences:
            raise UserError(
                f"worker {index} plans otherwise than worker 0: {'; '.join(differences)}. "
                "All need the same images, weights and options."
            )
    return plan.model_copy(
        update={
            "micro_batch": min((other.micro_batch for other in plans), key=lambda decided: decided.value),
            "remat": max((other.remat for other in plans), key=lambda decided: decided.value),
        }
    )
