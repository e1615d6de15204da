"""How much of an image-caption score hangs on the text in the picture: RSA and RSC, net of random controls.

arXiv 2312.14232, section 5: RSA = S(raw) - S(all text removed) and RSC = S(raw) - S(co-embedded text removed), S being
the cosine of image and caption. Filling in a region costs a score by itself, so both are given net of a control, in
which as many regions were filled in that have nothing to do with the picture's text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


def rsa(raw: Floats, erased: Floats) -> Floats:
    """Relative score of all text: [n] cosines of the picture, and of it without any text, to [n] differences.

    A picture without text is its own erased version: give the raw score twice, or NaN where it was not measured.

    >>> rsa(np.array([0.34]), np.array([0.30])).round(6)
    array([0.04])
    """
    return np.asarray(raw, dtype=np.float64) - np.asarray(erased, dtype=np.float64)


def rsc(raw: Floats, erased_caption: Floats) -> Floats:
    """Relative score of co-embedded text: [n] cosines of the picture, and of it without the words of its caption."""
    return rsa(raw, erased_caption)


def net(relative: Floats, raw: Floats, control: Floats) -> Floats:
    """A relative score net of its control: (raw - erased) - (raw - control), which is control - erased.

    Args:
        relative: [n] RSA or RSC.
        raw: [n] cosines of the picture.
        control: [n] cosines of the picture in which as many foreign regions were filled in.

    >>> net(np.array([0.0384]), np.array([0.3358]), np.array([0.3260])).round(4)
    array([0.0286])
    """
    return np.asarray(relative, dtype=np.float64) - rsa(raw, control)


def masked_weight(masked: Floats, centre: float, temperature: float) -> Floats:
    """A soft weight from the score of the picture with its text masked: sigmoid((S(M(x), t) - c) / T).

    A soft form (ours) of T-MARS (Maini et al., ICLR 2024), which keeps the pairs with the highest such scores.

    Args:
        masked: [n] cosines of masked picture and caption.
        centre: c, the score whose weight is one half.
        temperature: T > 0; the smaller, the harder.

    Returns:
        [n] in (0, 1).

    >>> masked_weight(np.array([0.2, 0.25, 0.3]), 0.25, 0.05).round(4)
    array([0.2689, 0.5   , 0.7311])
    """
    # Through tanh, which does not overflow.
    return 0.5 * (1.0 + np.tanh(0.5 * (np.asarray(masked, dtype=np.float64) - centre) / temperature))
