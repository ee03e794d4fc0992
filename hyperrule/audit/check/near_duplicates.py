"""Find pairs of images that look the same though their bytes differ: re-encoded, resized, retouched, in a burst.

Candidates are pairs whose perceptual hashes differ in few bits; their luma and chroma decide. The thresholds favour
precision, because training copies of test images are proposed for exclusion. Measured with them (Pillow 13):

- Re-encoded as JPEG (quality 60 or 90), resized by 0.5 or 0.9, or made 20 % darker or brighter, at least 99.3 % of
  800 images of CIFAR-10, 400 of clothes and 400 of hand signs are found; with 1 % cut off each side 97.8 %, with
  2 % (or a pixel of 32) 85 % (36 %), with 5 % some 2 %. Colourful images made grey are not found.
- CIFAR-10: 121 test images in 134 pairs with training images, all of which show one picture to the eye. People find
  3.3 % of the test images there (ciFAIR, arXiv 1902.00423); the others are cropped or coloured otherwise.
- 1,113 clothes, many of one cut on one wall: a pair, of two shirts. 2,062 hand signs: a pair, of two photos of a
  sign. A correlation of 0.9 would take 42 pairs of hands for the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt

from hyperrule.data.images import Indices
from hyperrule.data.inspection import Facts
from hyperrule.data.perceptual_hash import CHROMA_SIDE, SIDE
from hyperrule.support.progress import Reporter

BITS_APART = 8  # of 64, at most
CORRELATION = 0.95  # of the luma of 16 x 16 pixels, at least; overall brightness and contrast do not affect it
COLOUR_APART = 10.0  # root mean square of Cb and Cr over 4 x 4 pixels, of 255, at most
FLAT = 4.0  # standard deviation of luma, of 255, below which an image has too little contrast to compare
BLOCKS = 11  # of bits: a pair 8 bits apart agrees in at least 3 blocks, so that none is missed
EQUAL_BLOCKS = BLOCKS - BITS_APART
WINDOW = 128  # an image is compared with at most so many others with the same blocks
AT_ONCE = 1 << 14  # images or pairs converted to float32 at once


@dataclass(frozen=True)
class NearPairs:
    """`pairs` (int64 [m, 2]) are indices of images, ascending. `flat` images were not compared; `crowded` ones share
    hash blocks with more than WINDOW others, and were not compared with all of them."""

    pairs: Indices
    flat: Indices
    crowded: Indices


def near_pairs(facts: Facts, members: Indices, reporter: Reporter) -> NearPairs:
    """Find pairs among the images `members` (ascending indices into `facts`, dtype FACTS), each once."""
    flat = np.concatenate([_contrast(facts["luma"][part]) < FLAT for part in _parts(members)])
    compared = members[~flat]
    crowded = np.zeros(len(compared), np.bool_)
    found = np.zeros(0, np.int64)
    with reporter.stage("Comparing", comb(BLOCKS, EQUAL_BLOCKS)) as report:
        for done, candidates in enumerate(_candidates(facts["hash"][compared], crowded), start=1):
            found = np.union1d(found, candidates)
            report(done, "rounds")
    pairs = compared[np.stack(np.divmod(found, max(len(compared), 1)), axis=1)]
    same = np.concatenate([_look_the_same(facts, part) for part in _parts(pairs)])
    return NearPairs(pairs[same], members[flat], compared[crowded])


def _parts(rows: Indices) -> list[Indices]:
    """Split rows into one or more parts of at most AT_ONCE."""
    return np.array_split(rows, len(rows) // AT_ONCE + 1)


def _candidates(hashes: npt.NDArray[np.uint64], crowded: npt.NDArray[np.bool_]) -> Iterator[Indices]:
    """Yield pairs (i, j), i < j, encoded as i n + j (int64), whose hashes (uint64 [n]) differ in at most BITS_APART
    bits; pairs may repeat. Marks images in `crowded` (bool [n]) that were not compared with all candidates."""
    blocks = [sum(1 << int(bit) for bit in bits) for bits in np.array_split(np.arange(64), BLOCKS)]
    for chosen in combinations(blocks, EQUAL_BLOCKS):
        keys = hashes & np.uint64(sum(chosen))
        order = np.argsort(keys, kind="stable")
        keys, sorted_hashes = keys[order], hashes[order]
        first, found = np.arange(len(keys)), [np.zeros(0, np.int64)]
        for step in range(1, WINDOW + 1):
            first = first[: np.searchsorted(first, len(keys) - step)]
            first = first[keys[first] == keys[first + step]]
            if not len(first):
                break
            near = first[np.bitwise_count(sorted_hashes[first] ^ sorted_hashes[first + step]) <= BITS_APART]
            ends = np.sort(np.stack([order[near], order[near + step]]), axis=0)
            found.append(ends[0] * len(hashes) + ends[1])
        else:
            crowded[order[first]] = True
        yield np.concatenate(found)


def _look_the_same(facts: Facts, pairs: Indices) -> npt.NDArray[np.bool_]:
    """Compare luma and chroma of pairs (int64 [m, 2]): bool [m]."""
    one, other = facts[pairs[:, 0]], facts[pairs[:, 1]]
    correlation = (_standardised(one["luma"]) * _standardised(other["luma"])).mean(axis=1)
    colours = (one["chroma"].astype(np.float32) - other["chroma"]).reshape(len(pairs), 2 * CHROMA_SIDE**2)
    same: npt.NDArray[np.bool_] = (correlation >= CORRELATION) & (np.sqrt((colours**2).mean(axis=1)) <= COLOUR_APART)
    return same


def _contrast(luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    deviation: npt.NDArray[np.float32] = luma.reshape(len(luma), SIDE * SIDE).astype(np.float32).std(axis=1)
    return deviation


def _standardised(luma: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = luma.reshape(len(luma), SIDE * SIDE).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    values /= values.std(axis=1, keepdims=True)
    return values
