"""What evaluation keeps of every image: a few numbers, for the logits of a whole data set would fit into no memory."""

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from hyperrule.evaluation.confidence import BINS, Bin, Reliability, reliability

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

WRONG = -1  # predicted by logits that are no numbers
NOT_SEEN = -1  # the rank of an image that never came


class Tally:
    """Of images with the labels `truth` [N]: `ranks` int64 [N] (classes that come before the true one), `losses`
    float64 [N] in nats, `predicted` int64 [N], filled batch by batch."""

    def __init__(self, truth: Labels) -> None:
        self.truth = truth
        self.ranks = np.full(len(truth), NOT_SEEN)
        self.losses = np.zeros(len(truth))
        self.predicted = np.full(len(truth), WRONG)
        self._in_bins = np.zeros((BINS, 3))  # examples, sum of their scores, number of correct ones

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        seen: npt.NDArray[np.bool_] = self.ranks != NOT_SEEN
        return seen

    def add(self, indices: Labels, logits: Logits) -> None:
        """Logits [M, classes] of the images with these indices [M]."""
        labels = self.truth[indices]
        self.ranks[indices], self.losses[indices] = ranks_and_losses(logits, labels)
        self.predicted[indices] = np.where(np.isnan(logits).any(axis=1), WRONG, logits.argmax(axis=1))
        finite = np.isfinite(logits).all(axis=1)  # of others there are no scores
        if finite.any():
            for place, found in enumerate(reliability(logits[finite], labels[finite].astype(np.int32)).bins):
                self._in_bins[place] += found.examples * np.array([1, found.score, found.accuracy])

    def reliability(self) -> Reliability:
        """Of the scores of a softmax, over all images so far."""
        counts, scores, correct = self._in_bins.T
        means, accuracies = scores / np.maximum(counts, 1), correct / np.maximum(counts, 1)
        return Reliability(
            ece=float(np.abs(scores - correct).sum() / max(1, counts.sum())),
            loss=float(self.losses[self.seen].mean()),
            bins=tuple(
                Bin(
                    low=place / BINS,
                    high=(place + 1) / BINS,
                    examples=int(counts[place]),
                    score=float(means[place]),
                    accuracy=float(accuracies[place]),
                )
                for place in range(BINS)
            ),
        )


def ranks_and_losses(logits: Logits, labels: Labels) -> tuple[Labels, npt.NDArray[np.float64]]:
    """How many classes come before the true one, int64 [N], and its cross-entropy, float64 [N], of logits
    [N, classes] against labels [N].

    Of equal logits the first wins, as with argmax; against NaN all lose.
    """
    rows, classes = np.arange(len(labels)), np.arange(logits.shape[1])
    true = logits[rows, labels][:, np.newaxis]
    behind = (logits < true) | ((logits == true) & (classes >= labels[:, np.newaxis]))
    with np.errstate(invalid="ignore"):
        return (~behind).sum(axis=1), -log_softmax(logits.astype(np.float64), axis=1)[rows, labels]
