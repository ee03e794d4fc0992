"""The processes that train together, as the environment tells of them; no TensorFlow."""

import json
import os
from dataclasses import dataclass

from hyperrule.errors import RecipeError

CONFIG = "TF_CONFIG"
SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST")  # set by srun, for every task of a step


@dataclass(frozen=True)
class Cluster:
    """This process is worker `index` of `count`; worker 0, the chief, alone writes and speaks."""

    index: int = 0
    count: int = 1
    slurm: bool = False

    @property
    def chief(self) -> bool:
        return self.index == 0


def this_cluster() -> Cluster:
    """From TF_CONFIG, or else SLURM's variables of a step with several tasks; one process without either.

    Raises RecipeError for a TF_CONFIG that is no cluster of workers (parameter servers and evaluators have no place
    in synchronous training).
    """
    if text := os.environ.get(CONFIG):
        return _of_config(text)
    if all(name in os.environ for name in SLURM) and int(os.environ[SLURM[1]]) > 1:
        return Cluster(int(os.environ[SLURM[0]]), int(os.environ[SLURM[1]]), slurm=True)
    return Cluster()


def _of_config(text: str) -> Cluster:
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        workers, kind, index = jobs["worker"], task["type"], int(task["index"])
        if set(jobs) != {"worker"} or kind != "worker" or not 0 <= index < len(workers):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
        raise RecipeError(
            f"{CONFIG} must name workers only, and this process as one of them, as in '{example}'. Received: {text!r}. "
            "For one process, unset it."
        ) from None
    return Cluster(index, len(workers))
