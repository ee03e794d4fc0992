"""What evaluation keeps of every image: a few numbers, for the logits of a whole data set would fit into no memory."""

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, softmax

from hyperrule.evaluation.confidence import Reliability, judged

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

WRONG = -1  # predicted by logits that are no numbers
NOT_SEEN = -1  # the rank of an image that never came


class Tally:
    """Of images with the labels `truth` [N]: `ranks` int64 [N] (classes that come before the true one), `losses`
    float64 [N] in nats, `predicted` int64 [N] and `scores` float64 [N] (their probabilities), filled batch by batch."""

    def __init__(self, truth: Labels) -> None:
        self.truth = truth
        self.ranks = np.full(len(truth), NOT_SEEN)
        self.losses = np.zeros(len(truth))
        self.predicted = np.full(len(truth), WRONG)
        self.scores = np.zeros(len(truth))

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        seen: npt.NDArray[np.bool_] = self.ranks != NOT_SEEN
        return seen

    def add(self, indices: Labels, logits: Logits) -> None:
        """Logits [M, classes] of the images with these indices [M]."""
        labels = self.truth[indices]
        self.ranks[indices], self.losses[indices] = ranks_and_losses(logits, labels)
        self.predicted[indices] = np.where(np.isnan(logits).any(axis=1), WRONG, logits.argmax(axis=1))
        with np.errstate(invalid="ignore"):
            self.scores[indices] = softmax(logits.astype(np.float64), axis=1).max(axis=1)

    def reliability(self) -> Reliability:
        """Of the scores of a softmax, over all images so far; of logits that are no numbers there are none."""
        scored = self.seen & np.isfinite(self.scores)
        return judged(self.scores[scored], self.ranks[scored] == 0, float(self.losses[self.seen].mean()))


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
