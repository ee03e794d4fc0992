"""Make a distilled student the embedded backbone of the package.

    .venv/bin/python scripts/embed.py runs/embedded [--kernel-scale 1]

Drops the head and stores all arrays in float16. The network standardises its kernels, so their scale does not change
its outputs; it only sets how fast the rule's fixed learning rate moves them.
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
    parser.add_argument("--out", type=Path, help="write this file instead of the package's own")
    args = parser.parse_args()
    weights = args.run / "weights.npz"
    arrays = {}
    for name, array in read_arrays(weights).items():
        if name.startswith(HEAD):
            continue
        if name.endswith("kernel"):
            centred = array - array.mean(axis=(0, 1, 2))
            array = args.kernel_scale * centred / np.sqrt(np.square(centred).mean(axis=(0, 1, 2)))
        arrays[name] = array.astype(np.float16)
    target = args.out or TARGET / f"bit-{read_architecture(weights)}.npz".lower()
    np.savez_compressed(target, **arrays)
    print(f"{target}: {target.stat().st_size:,} bytes, sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
