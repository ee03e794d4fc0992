"""What carries out the pieces of a benchmark: processes of this machine, or a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hyperrule.benchmark.engines.local import run_locally
from hyperrule.benchmark.engines.pieces import Order, Piece
from hyperrule.errors import RecipeError

ENGINES = ("local", "ray")
Engine = Callable[[Path, Sequence[Order], int, Callable[[Piece, int], None]], None]


@contextmanager
def started(name: str, address: str | None) -> Iterator[Engine]:
    """The engine of that name, for the block; Ray's at an address, or else on this machine.

    Raises UserError if it cannot be had.
    """
    if name not in ENGINES:
        raise RecipeError(f"engine must be {' or '.join(ENGINES)}. Received: {name!r}")
    if name == "local":
        if address is not None:
            raise RecipeError(f"--address is that of a Ray cluster: say --engine ray, too. Received: {address!r}")
        yield run_locally
        return
    from hyperrule.benchmark.engines.ray import connected, run_on_ray

    with connected(address):
        yield run_on_ray
