"""Make a distilled student the backbone that the package carries.

    .venv/bin/python scripts/embed.py runs/embedded [--kernel-scale 1]

Its head is left behind. Kernels are standardised in use, so their scale is free for what the network computes: it sets
how fast the fixed rate of the rule moves them. All is kept in float16.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np

from hyperrule.backbones.bit.checkpoints import HEAD, read_architecture, read_arrays

TARGET = Path(__file__).parents[1] / "hyperrule" / "backbones" / "weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run of hyperrule distill")
    parser.add_argument("--kernel-scale", type=float, default=1.0, help="standard deviation of each output channel")
    parser.add_argument("--out", type=Path, help="another file than that of the package")
    asked = parser.parse_args()
    weights = asked.run / "weights.npz"
    arrays = {}
    for name, array in read_arrays(weights).items():
        if name.startswith(HEAD):
            continue
        if name.endswith("kernel"):
            centred = array - array.mean(axis=(0, 1, 2))
            array = asked.kernel_scale * centred / np.sqrt(np.square(centred).mean(axis=(0, 1, 2)))
        arrays[name] = array.astype(np.float16)
    target = asked.out or TARGET / f"bit-{read_architecture(weights)}.npz".lower()
    np.savez_compressed(target, **arrays)
    print(f"{target}: {target.stat().st_size:,} bytes, sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
