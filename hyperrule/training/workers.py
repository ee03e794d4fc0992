"""What the processes of one training say to each other, through the collectives of their strategy.

One plan for all workers: the chief's, which must be everybody's but for how much a device takes at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hyperrule.backbones.bit.checkpoints import State
from hyperrule.data.selection import Shard
from hyperrule.errors import HyperruleError, RunError, UserError
from hyperrule.planning.machine.cluster import Cluster
from hyperrule.planning.training_plan import TrainingPlan

Floats = npt.NDArray[np.float32]
AT_ONCE = 2**22  # numbers of one collective: 16 MiB
LEAST_ROOM = 2**8
LOST = (  # what TensorFlow raises when a peer is gone
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)


class Workers:
    """The workers of a strategy; a single process is a worker alone, and all of this costs it nothing.

    Every method must be called by all workers, in the same order.
    """

    def __init__(self, strategy: tf.distribute.Strategy, cluster: Cluster) -> None:
        self.strategy = strategy
        self.index, self.count, self.chief = cluster.index, cluster.count, cluster.chief

    @property
    def shard(self) -> Shard:
        """This worker's part of every batch."""
        return Shard(self.index, self.count, int(self.strategy.num_replicas_in_sync) // self.count)

    def sum(self, values: npt.ArrayLike) -> Floats:
        """Sums over the workers, element by element, as float32 (whole numbers up to 2^24 are exact)."""
        numbers = np.asarray(values, np.float32)
        if self.count == 1:
            return numbers
        flat = numbers.ravel()
        parts = [self._summed(flat[start : start + AT_ONCE]) for start in range(0, max(1, flat.size), AT_ONCE)]
        return np.concatenate(parts).reshape(numbers.shape)

    def broadcast(self, values: npt.ArrayLike, source: int = 0) -> npt.NDArray[Any]:
        """The values of one worker, the same shape and kind on all: whole numbers exactly, all others as float32."""
        given = np.asarray(values)
        numbers = given if self.index == source else np.zeros_like(given)
        return self.sum(numbers) if given.dtype.kind == "f" else self._gathered(numbers).astype(given.dtype)

    def broadcast_arrays(self, arrays: State) -> State:
        """The chief's arrays; those of the others give names, shapes and kinds of numbers."""
        return {name: self.broadcast(arrays[name]) for name in sorted(arrays)} if self.count > 1 else dict(arrays)

    def texts(self, text: str) -> list[str]:
        """The text of every worker."""
        if self.count == 1:
            return [text]
        content = np.frombuffer(text.encode(), np.uint8).astype(np.float32)
        lengths = self._gathered(np.where(np.arange(self.count) == self.index, content.size, 0))
        received = [
            self.broadcast(content if index == self.index else np.zeros(length), index)
            for index, length in enumerate(lengths)
        ]
        return [one.astype(np.uint8).tobytes().decode() for one in received]

    def wait(self) -> None:
        """Until all are here."""
        self.sum(0)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What stops one worker within the block stops all at its end, with the same exit code and reason."""
        error: HyperruleError | None = None
        try:
            yield
        except HyperruleError as raised:
            error = raised
        kinds = self.sum(np.eye(self.count)[self.index] * (0 if error is None else error.exit_code))
        texts = self.texts("" if error is None else str(error)) if kinds.any() else []
        if error is not None:
            raise error
        for index, kind in enumerate(kinds):
            if kind:
                raise (UserError if kind == UserError.exit_code else RunError)(f"worker {index}: {texts[index]}")

    def _gathered(self, numbers: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Whole numbers of which one worker has each and all others have 0; exact, for float32 holds all of 16 bits."""
        words = numbers.astype(np.int64).reshape(-1).view(np.uint16)
        return self.sum(words).astype(np.uint16).view(np.int64).reshape(numbers.shape)

    def _summed(self, part: Floats) -> Floats:
        room = LEAST_ROOM
        while room < part.size:  # few shapes, few graphs
            room *= 4
        padded = np.zeros(room, np.float32)
        padded[: part.size] = part
        total = self._all_reduce(tf.constant(padded))
        return np.array(self.strategy.experimental_local_results(total)[0])[: part.size]

    @cached_property
    def _all_reduce(self) -> tf.types.experimental.PolymorphicFunction:
        devices = self.shard.devices

        def reduce(values: tf.Tensor) -> tf.Tensor:
            replica = tf.distribute.get_replica_context()
            first = tf.equal(replica.replica_id_in_sync_group % devices, 0)  # the others of this worker add nothing
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(first, values, 0.0))

        return tf.function(lambda values: self.strategy.run(reduce, (values,)), autograph=False)


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
