"""Suspected labels as one web page that needs nothing but itself."""

from collections import Counter

from hyperrule.data.source import Source
from hyperrule.insight.label_errors import LabelErrors, in_words
from hyperrule.pages.rendering import render
from hyperrule.preflight.pictures import pictures

PICTURES = 240  # suspects shown with their image
PAIRS = 12  # of label and likelier class, in the table of the most frequent


def render_page(found: LabelErrors, source: Source) -> str:
    """HTML. Every name in it is text, whatever it holds."""
    shown = found.suspects[:PICTURES]
    by_label = Counter(suspect.label for suspect in found.suspects)
    return render(
        "insight/label_errors.html",
        found=found,
        summary=in_words(found),
        shown=shown,
        pictures=pictures(source, (suspect.id for suspect in shown)),
        pairs=Counter((suspect.label, suspect.likelier) for suspect in found.suspects).most_common(PAIRS),
        classes=[
            (name, images, by_label[name])
            for name, images in zip(found.class_names, found.per_class, strict=True)
            if by_label[name]
        ],
    )
