"""Pictures of images of a data set, for the page."""

from collections.abc import Iterable

from hyperrule.data.source import Source
from hyperrule.pages.thumbnails import data_uri, thumbnail


def pictures(source: Source, ids: Iterable[str]) -> dict[str, str]:
    """data: URIs of small JPEGs of the images with those ids; none for those that cannot be read."""
    wanted, contents = set(ids), source.listing.contents
    numbers = {identity: number for number, identity in enumerate(source.listing.ids) if identity in wanted}
    small = {identity: thumbnail(contents, number) for identity, number in numbers.items()}
    return {identity: data_uri(jpeg) for identity, jpeg in small.items() if jpeg is not None}
