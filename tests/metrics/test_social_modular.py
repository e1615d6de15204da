"""The torchmetrics class: keys, pictures of unknown group, and what is refused. Ranks: see test_modular_metrics."""

from __future__ import annotations

import pytest
import torch

from bias_train.metrics.functional.social.word_bias import word_bias
from bias_train.metrics.social import SocialBias
from bias_train.stats import Bootstrap

PICTURES, WORDS = 40, 5


def table() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(-1, 3, (PICTURES,), generator=generator)
    image = torch.randn(PICTURES, 6, generator=generator) + group[:, None] * torch.eye(6)[0]
    return {"text": torch.randn(WORDS, 6, generator=generator), "image": image, "group": group}


def metric() -> SocialBias:
    return SocialBias(groups=3, ks=(4, 100), target="uniform", bootstrap=Bootstrap(30), floor_draws=50, seed=2)


def reference() -> str:
    data = table()
    known = data["group"] >= 0
    found = word_bias(
        data["text"], data["image"][known], data["group"][known], 3,
        ks=(4, 100), target="uniform", bootstrap=Bootstrap(30), floor_draws=50, seed=2,
    )  # fmt: skip
    # By their text, in which NaN equals NaN: the same figures, bit for bit.
    return repr(found.figures())


def test_pictures_of_unknown_group_are_left_out() -> None:
    data, own = table(), metric()
    own.update(image=data["image"], image_id=torch.arange(PICTURES), image_group=data["group"])
    own.update(text=data["text"], query_id=torch.arange(WORDS))
    assert repr(own.figures()) == reference()
    values = own.compute()
    assert {"max_skew@4", "excess_max_skew@4", "ndkl@100", "excess_abs_association"} <= set(values)
    assert float(values["excess_ndkl@4"]) == next(f.value for f in own.figures() if f.key == "excess_ndkl@4")


def test_no_picture_of_known_group() -> None:
    own = metric()
    own.update(image=torch.eye(6), image_id=torch.arange(6), image_group=-torch.ones(6, dtype=torch.int64))
    own.update(text=torch.eye(6), query_id=torch.arange(6))
    with pytest.raises(ValueError, match="image_group is -1 for all pictures"):
        own.compute()


def test_a_missing_column_is_told() -> None:
    with pytest.raises(ValueError, match="image_group is missing"):
        metric().update(image=torch.eye(6), image_id=torch.arange(6))
