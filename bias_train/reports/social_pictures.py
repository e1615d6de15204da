"""The first pictures of some queries, small enough to stand in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch
from PIL import Image

from bias_train.audit.social.measure import HEADLINE
from bias_train.audit.social.outcome import PEOPLE, SocialOutcome
from bias_train.people.vectors import People, Words
from datamodules.catalogue import Catalogue
from datamodules.decode import decode
from datamodules.index import ShardIndex

QUERIES = 12  # words whose pictures are shown: those with the largest MaxSkew by the first attribute
SIDE = 72


def top_pictures(
    outcome: SocialOutcome, people: People, words: Words, shards: Sequence[str], top: int
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Take the first pictures of the most skewed words.

    Args:
        outcome: the audit.
        people: what was searched.
        words: the first wording's queries.
        shards: where the pictures are.
        top: pictures a query.

    Returns:
        ``data:`` addresses of JPEGs, by (category, word).

    Raises:
        DataError: for a picture that cannot be read.
    """
    leading = outcome.headlines[0]
    place = (PEOPLE, leading.mode, leading.attribute, HEADLINE, outcome.k)
    rows = [row for row in outcome.words if (row.set, row.mode, row.attribute, row.name, row.k) == place]
    rows = sorted((row for row in rows if row.value == row.value), key=lambda row: -row.value)[:QUERIES]
    catalogue = Catalogue.of([ShardIndex.load(location) for location in shards])
    picture = {catalogue.name(number): number for number in catalogue.anchor.tolist()}
    number = {key: row for row, key in enumerate(words.keys)}
    found = {}
    for row in rows:
        scores = people.image @ words.text[number[row.category, row.word]]
        best = torch.topk(scores, min(top, len(scores))).indices.tolist()
        found[row.category, row.word] = tuple(_data(catalogue, picture[people.key[place]]) for place in best)
    return found


def _data(catalogue: Catalogue, picture: int) -> str:
    image = Image.fromarray(decode(catalogue.read(picture), catalogue.name(picture), min_side=2 * SIDE))
    image.thumbnail((2 * SIDE, 2 * SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
