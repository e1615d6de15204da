"""Divides what is asked about text into a part that remedies are fitted to and a part that is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bias_train.audit.text.text_set import TextSet
from bias_train.errors import RunError
from bias_train.metrics.functional.text.questions import Attacks, Overlays, Pairs, TextQuestions
from bias_train.stats import Ints
from datamodules.hashing import mix

Bools = NDArray[np.bool_]

_STREAM = 501


def halves(asked: TextSet, held_out: float = 0.5, seed: int = 0) -> tuple[TextSet, TextSet]:
    """Divide pictures by what they show, so that no picture of a scene is on both sides.

    The first part has ordinary pairs and overlaid pictures. The second has the others, and whatever no remedy is fitted
    to in full: rendered words, the reading set, and attacks on what is held out. Relative scores are in neither.

    Args:
        asked: everything.
        held_out: share of the scenes that are measured only, in (0, 1).
        seed: of the choice.

    Returns:
        ``(fitted, measured)``, each with tables of its own.

    Raises:
        RunError: for a share out of range, or too few pictures to be on both sides.
    """
    if not 0.0 < held_out < 1.0:
        raise RunError(f"--held-out is {held_out:g}; give a share between 0 and 1")
    questions = asked.questions
    if questions.overlays is None:
        raise RunError(
            "--shards: holds no picture with a wrong word, to fit remedies to and to measure them on; make some with "
            "`bias-train synthesize overlay`"
        )
    sides = [questions.pairs.image_target, questions.overlays.target]
    if questions.attacks is not None:
        sides.append(questions.attacks.target)
    targets = np.unique(np.concatenate(sides))
    order = np.argsort(mix(seed, _STREAM, targets), kind="stable")
    held = targets[order[: round(held_out * len(targets))]]
    fitted = TextQuestions(
        pairs=_pairs(questions.pairs, held, inside=False), overlays=_overlays(questions.overlays, held, inside=False)
    )
    measured = TextQuestions(
        pairs=_pairs(questions.pairs, held, inside=True),
        words=questions.words,
        overlays=_overlays(questions.overlays, held, inside=True),
        reading=questions.reading,
        attacks=None if questions.attacks is None else _attacks(questions.attacks, held),
    )
    for part in (fitted, measured):
        assert part.overlays is not None
        if len(np.unique(part.overlays.target)) < 2 or len(np.unique(part.pairs.image_target)) < 2:
            raise RunError(
                f"--shards: {len(np.unique(questions.overlays.target))} overlaid and "
                f"{len(np.unique(questions.pairs.image_target))} ordinary pictures are too few to fit to some and "
                "measure others; give more, or change --held-out"
            )
    return with_questions(asked, fitted), with_questions(asked, measured)


def with_questions(asked: TextSet, questions: TextQuestions) -> TextSet:
    """Keep the pictures and texts that some of the questions need, and renumber them.

    Args:
        asked: everything.
        questions: rows as in ``asked``.
    """
    over, attacks = questions.overlays, questions.attacks
    pairs = [pairs for pairs in (questions.pairs, questions.reading) if pairs is not None]
    pictures = [one.image for one in pairs]
    texts = [one.text for one in pairs]
    if over is not None:
        pictures += [over.clean, over.written]
        texts += [over.query, over.caption, over.other[over.other >= 0]]
    if attacks is not None:
        pictures += [attacks.attacked, attacks.clean[attacks.clean >= 0]]
        texts.append(attacks.prompt)
    if questions.words is not None:
        texts.append(questions.words.word)
    kept = np.unique(np.concatenate(pictures))
    told = np.unique(np.concatenate(texts))

    def image(rows: Ints) -> Ints:
        return np.where(rows >= 0, np.searchsorted(kept, rows), -1).astype(np.int64)

    def text(rows: Ints) -> Ints:
        return np.where(rows >= 0, np.searchsorted(told, rows), -1).astype(np.int64)

    def paired(one: Pairs) -> Pairs:
        return replace(one, image=image(one.image), text=text(one.text))

    words = questions.words
    if words is not None:
        rendered = words.rendered - len(asked.pictures) + len(kept)
        words = replace(words, rendered=rendered, word=text(words.word))
    if over is not None:
        over = replace(
            over, clean=image(over.clean), written=image(over.written), query=text(over.query),
            caption=text(over.caption), other=text(over.other),
        )  # fmt: skip
    if attacks is not None:
        attacks = replace(
            attacks, attacked=image(attacks.attacked), clean=image(attacks.clean), prompt=text(attacks.prompt)
        )
    whole = asked.pictures
    names: Sequence[str] = whole.keys
    return replace(
        asked,
        pictures=replace(
            whole,
            keys=tuple(names[row] for row in kept.tolist()),
            picture=whole.picture[kept],
            target=whole.target[kept],
            source=whole.source[kept],
        ),
        rendering=None if words is None else asked.rendering,
        texts=tuple(asked.texts[row] for row in told.tolist()),
        questions=TextQuestions(
            pairs=paired(questions.pairs),
            words=words,
            overlays=over,
            reading=None if questions.reading is None else paired(questions.reading),
            attacks=attacks,
        ),
    )


def _pairs(pairs: Pairs, held: Ints, *, inside: bool) -> Pairs:
    image, text = (np.isin(targets, held) == inside for targets in (pairs.image_target, pairs.text_target))
    return Pairs(pairs.image[image], pairs.image_target[image], pairs.text[text], pairs.text_target[text])


def _overlays(over: Overlays, held: Ints, *, inside: bool) -> Overlays:
    kept: Bools = np.isin(over.target, held) == inside
    captions = kept[over.caption_of]
    place = np.cumsum(kept) - 1
    return Overlays(
        clean=over.clean[kept],
        written=over.written[kept],
        query=over.query[kept],
        target=over.target[kept],
        caption=over.caption[captions],
        caption_of=place[over.caption_of[captions]].astype(np.int64),
        other=over.other[kept],
    )


def _attacks(attacks: Attacks, held: Ints) -> Attacks | None:
    kept = np.isin(attacks.target, held)
    if not kept.any():
        return None
    rows = {name: getattr(attacks, name)[kept] for name in ("attacked", "clean", "label", "word", "target")}
    return replace(attacks, **rows)
