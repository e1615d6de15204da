"""Losses on edited pictures against naive loops over pictures and captions, their asymmetries, and their traps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from random_features import random_features, unit_rows
from torch import Tensor

from losses import (
    CounterfactualContrast,
    CounterfactualInfoNCE,
    Features,
    HardNegativeCaptions,
    InfoNCE,
    Loss,
    LossError,
    OHDMargins,
    SpuriousPrompts,
)

ROWS, WIDTH = 9, 5
ALL = [CounterfactualContrast, CounterfactualInfoNCE, HardNegativeCaptions, OHDMargins, SpuriousPrompts]


def edited_features(seed: int = 0, **changes: Any) -> Features:
    """Nine rows; a third have no edit; of the others every second one is a pasted object. Some groups repeat."""
    generator = torch.Generator().manual_seed(100 + seed)
    row = torch.arange(ROWS)
    has_edit = row % 3 != 1
    rows = has_edit.unsqueeze(1)
    values: dict[str, Any] = {
        "edit": unit_rows(ROWS, WIDTH, generator) * rows,
        "edit_text": unit_rows(ROWS, WIDTH, generator) * rows,
        "edit_prompt": unit_rows(ROWS, WIDTH, generator) * rows,
        "has_edit": has_edit,
        "edit_added": row % 2 == 0,
        "edit_caption_id": torch.randint(0, ROWS, (ROWS,), generator=generator),
    }
    return replace(random_features(ROWS, WIDTH, seed), **(values | changes))


def pairs_of(features: Features) -> list[dict[str, Any]]:
    """Every true pair with what it is: its row, group and caption, whether it is an edit, and whether it says more."""
    assert features.edit is not None
    assert features.edit_text is not None
    assert features.has_edit is not None
    assert features.edit_added is not None
    assert features.edit_caption_id is not None
    found = []
    for row in range(len(features.image)):
        has, added = bool(features.has_edit[row]), bool(features.edit_added[row])
        common = {"row": row, "group": int(features.group[row]), "has": has, "added": added}
        anchor = {"picture": features.image[row], "text": features.text[row], "id": int(features.caption_id[row])}
        found.append(common | anchor | {"edit": False, "fuller": has and not added, "plainer": has and added})
        if has:
            edit = {"picture": features.edit[row], "text": features.edit_text[row]}
            about = {"id": int(features.edit_caption_id[row]), "edit": True, "fuller": added, "plainer": not added}
            found.append(common | edit | about)
    return found


def score(features: Features, picture: Tensor, text: Tensor) -> float:
    return float(features.logit_scale * (picture @ text))


def entropy(positive: float, negatives: list[float]) -> float:
    return math.log(sum(math.exp(x) for x in [positive, *negatives])) - positive


def may_compare(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two pairs of different rows are negatives of each other."""
    return one["row"] != other["row"] and one["group"] != other["group"] and one["id"] != other["id"]


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@pytest.mark.parametrize("seed", range(3))
def test_counterfactual_infonce_against_loops(seed: int) -> None:
    features = edited_features(seed)
    pairs = pairs_of(features)
    each = []
    for one in pairs:
        captions, pictures = [], []
        for other in pairs:
            own_other = other["row"] == one["row"] and other["edit"] != one["edit"]
            if may_compare(one, other) or (own_other and one["plainer"]):
                captions.append(score(features, one["picture"], other["text"]))
            if may_compare(one, other) or (own_other and one["fuller"]):
                pictures.append(score(features, other["picture"], one["text"]))
        own = score(features, one["picture"], one["text"])
        each.append((entropy(own, captions) + entropy(own, pictures)) / 2)
    value = CounterfactualInfoNCE()(features)["counterfactual_infonce"]
    assert float(value) == pytest.approx(mean(each))


@pytest.mark.parametrize("seed", range(3))
def test_hard_negative_captions_against_loops(seed: int) -> None:
    features = edited_features(seed)
    pairs = pairs_of(features)
    rows, columns = [], []
    for one in pairs:
        own = score(features, one["picture"], one["text"])
        if not one["edit"] or one["plainer"]:
            negatives = [
                score(features, one["picture"], other["text"])
                for other in pairs
                if may_compare(one, other) or (other["row"] == one["row"] and other is not one and one["plainer"])
            ]
            rows.append(entropy(own, negatives))
        if not one["edit"]:
            pictures = [
                score(features, other["picture"], one["text"])
                for other in pairs
                if not other["edit"] and may_compare(one, other)
            ]
            columns.append(entropy(own, pictures))
    value = HardNegativeCaptions()(features)["hard_negative_captions"]
    assert float(value) == pytest.approx((mean(rows) + mean(columns)) / 2)


@pytest.mark.parametrize("rows", ["picture", "caption"])
@pytest.mark.parametrize("sign", ["above", "below"])
def test_ohd_margins_against_loops(rows: Any, sign: Any) -> None:
    features = edited_features()
    pairs = pairs_of(features)
    contrastive, over_false, over_batch, false = [], [], [], []
    for one in pairs:
        if one["edit"] and not one["plainer"]:
            continue
        anchors = [other for other in pairs if not other["edit"] and may_compare(one, other)]
        captions = [score(features, one["picture"], other["text"]) for other in anchors]
        pictures = [score(features, other["picture"], one["text"]) for other in anchors]
        own = score(features, one["picture"], one["text"])
        other = next((o for o in pairs if o["row"] == one["row"] and o is not one), None)
        wrong = [score(features, one["picture"], other["text"])] if one["plainer"] and other else []
        with_false = (captions + wrong, pictures) if rows == "picture" else (captions, pictures + wrong)
        contrastive.append((entropy(own, with_false[0]) + entropy(own, with_false[1])) / 2)
        batch = captions if rows == "picture" else pictures
        over_false += [max(0.0, 3.0 - own + value) for value in wrong]
        over_batch += [max(0.0, 3.0 - own + max(batch))] if batch else []
        if wrong and batch:
            apart = max(batch) - wrong[0] if sign == "above" else wrong[0] - max(batch)
            false.append(max(0.0, 1.5 + apart))
    terms = OHDMargins(l1=0.3, l2=0.7, tau1=3.0, tau2=1.5, rows=rows, sign=sign)(features)
    assert float(terms["contrastive"]) == pytest.approx(mean(contrastive))
    assert float(terms["margin_true"]) == pytest.approx(0.3 * (mean(over_false) + mean(over_batch)))
    assert float(terms["margin_false"]) == pytest.approx(0.7 * mean(false))


@pytest.mark.parametrize("seed", range(3))
def test_counterfactual_contrast_against_loops(seed: int) -> None:
    features = edited_features(seed)
    pairs = pairs_of(features)
    expected: dict[str, list[float]] = {"a1": [], "a2": [], "b1": [], "b2": []}
    follows = []
    for row in range(ROWS):
        both = {("more" if one["fuller"] else "less"): one for one in pairs if one["row"] == row and one["has"]}
        if not both:
            continue
        more, less = both["more"], both["less"]
        full, plain = score(features, more["picture"], more["text"]), score(features, less["picture"], less["text"])
        wrong, weaker = score(features, less["picture"], more["text"]), score(features, more["picture"], less["text"])
        expected["a1"].append(entropy(plain, [wrong]))
        expected["a2"].append(entropy(full, [wrong]))
        expected["b1"].append(entropy(full, [weaker]))
        expected["b2"].append(entropy(plain, [weaker]))
        follows.append(float(plain > wrong and full > wrong))
    loss = CounterfactualContrast(a1=1.0, a2=0.8, b1=0.3, b2=0.2)
    terms = loss(features)
    for name, weight in (("a1", 1.0), ("a2", 0.8), ("b1", 0.3), ("b2", 0.2)):
        assert float(terms[name]) == pytest.approx(weight / 4 * mean(expected[name]))
    assert float(loss.figures["follows"]) == pytest.approx(mean(follows))


def test_roles_turn_with_the_kind_of_edit() -> None:
    """Taking a dog out of a picture is pasting it into the picture without it."""
    features = edited_features(edit_added=torch.zeros(ROWS, dtype=torch.bool))
    assert features.edit is not None
    assert features.edit_text is not None
    rows = features.has_edit
    assert rows is not None
    swap = rows.unsqueeze(1)
    turned = replace(
        features,
        image=torch.where(swap, features.edit, features.image),
        text=torch.where(swap, features.edit_text, features.text),
        edit=features.image * swap,
        edit_text=features.text * swap,
        edit_added=torch.ones(ROWS, dtype=torch.bool),
    )
    loss = CounterfactualContrast(a1=1.0, a2=0.8, b1=0.3, b2=0.2)
    before, after = loss(features), loss(turned)
    for name, value in before.items():
        assert float(after[name]) == pytest.approx(float(value))


def test_the_plain_caption_is_no_negative_of_the_full_picture() -> None:
    """In-batch trap: the caption that leaves the dog out is true of the picture with the dog."""
    features = edited_features()
    for added in (False, True):
        one = replace(features, edit_added=torch.full((ROWS,), added))
        for kind in (CounterfactualInfoNCE, HardNegativeCaptions, OHDMargins):
            leaf = one.text.clone().requires_grad_()
            edit_text = one.edit_text
            assert edit_text is not None
            other = edit_text.clone().requires_grad_()
            # Only the rows' own crossings are left where all rows show the same.
            alone = replace(one, text=leaf, edit_text=other, group=torch.zeros(ROWS, dtype=torch.int64))
            loss: Loss = kind()
            torch.stack(list(loss(alone).values())).sum().backward()
            full, plain = (other, leaf) if added else (leaf, other)
            assert full.grad is not None
            # The full caption is pushed off the plain picture; nothing pushes the plain caption off the full picture,
            # so its gradient has no part along that picture.
            assert one.has_edit is not None
            for row in one.has_edit.nonzero().flatten().tolist():
                pictures = {False: one.image[row], True: one.edit[row]}  # type: ignore[index]
                shows, lacks = pictures[added], pictures[not added]
                flat = torch.stack([shows, lacks]).T
                if plain.grad is not None and float(plain.grad[row].abs().sum()) > 0:
                    share = torch.linalg.lstsq(flat, plain.grad[row].unsqueeze(1)).solution
                    assert abs(float(share[0])) < 1e-9, kind.__name__


def test_without_edits_the_contrastive_ones_are_infonce() -> None:
    nothing = torch.zeros(ROWS, dtype=torch.bool)
    features = edited_features(has_edit=nothing)
    expected = float(InfoNCE()(features)["infonce"])
    assert float(CounterfactualInfoNCE()(features)["counterfactual_infonce"]) == pytest.approx(expected)
    assert float(HardNegativeCaptions()(features)["hard_negative_captions"]) == pytest.approx(expected)
    margins = OHDMargins()(features)
    assert float(margins["contrastive"]) == pytest.approx(expected)
    assert float(margins["margin_false"]) == 0
    for kind in (CounterfactualContrast, SpuriousPrompts):
        assert all(float(value) == 0 for value in kind()(features).values())


@pytest.mark.parametrize("kind", ALL)
def test_terms_stay_on_the_graph_where_no_row_is_edited(kind: type[Loss]) -> None:
    features = edited_features(has_edit=torch.zeros(ROWS, dtype=torch.bool))
    edit = torch.zeros(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    text = torch.zeros(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    value = torch.stack(list(kind()(replace(features, edit=edit, edit_text=text)).values())).sum()
    value.backward()
    for leaf in (edit, text):
        assert leaf.grad is None or not leaf.grad.any()


@pytest.mark.parametrize("kind", ALL)
def test_a_row_alone_is_finite(kind: type[Loss]) -> None:
    features = edited_features()
    first = {
        name: value[:1].clone().requires_grad_(value.is_floating_point())
        for name in ("image", "text", "source", "group", "caption_id", "edit", "edit_text", "edit_prompt", "has_edit")
        if isinstance(value := getattr(features, name), Tensor)
    }
    added = torch.tensor([True])
    alone = Features(**first, edit_added=added, logit_scale=features.logit_scale)
    value = torch.stack(list(kind()(alone).values())).sum()
    value.backward()
    assert torch.isfinite(value)
    for tensor in first.values():
        assert tensor.grad is None or bool(torch.isfinite(tensor.grad).all())


@pytest.mark.parametrize("kind", [CounterfactualContrast, CounterfactualInfoNCE, HardNegativeCaptions, OHDMargins])
def test_descending_lets_the_score_follow_the_object(kind: type[Loss]) -> None:
    """Each by itself brings the false caption below the true one on pictures that lost the object."""
    generator = torch.Generator().manual_seed(3)
    leaves = [torch.randn(6, 8, generator=generator).requires_grad_() for _ in range(4)]
    ids, optimizer = torch.arange(6), torch.optim.Adam(leaves, lr=0.05)
    loss = kind()

    def batch() -> Features:
        image, text, edit, edit_text = (F.normalize(leaf, dim=1) for leaf in leaves)
        return Features(
            image=image, text=text, edit=edit, edit_text=edit_text, logit_scale=torch.tensor(10.0), source=ids * 0,
            group=ids, caption_id=ids, edit_caption_id=ids + 6, has_edit=ids >= 0, edit_added=ids < 0,
        )  # fmt: skip

    for _ in range(150):
        optimizer.zero_grad()
        torch.stack(list(loss(batch()).values())).sum().backward()
        optimizer.step()
    found = batch()
    assert found.edit is not None
    assert found.edit_text is not None
    margin = (found.edit * found.edit_text).sum(dim=1) - (found.edit * found.text).sum(dim=1)
    assert bool((margin > 0.1).all())


def test_the_scale_is_only_a_unit_of_choices_and_margins() -> None:
    features = edited_features()
    scale = features.logit_scale.clone().requires_grad_()
    terms = CounterfactualContrast(b1=0.5)(replace(features, logit_scale=scale))
    assert not torch.stack(list(terms.values())).requires_grad
    margins = OHDMargins(tau1=9.0, tau2=9.0)(replace(features, logit_scale=scale))
    (margins["margin_true"] + margins["margin_false"]).backward()
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(0.0, abs=1e-9)


def test_spurious_prompts_against_loops_and_the_floor() -> None:
    features = edited_features()
    assert features.edit_prompt is not None
    assert features.edit_text is not None
    near = features.edit_prompt.clone()
    near[0], near[5] = features.text[0], -features.edit_text[5]  # of either kind and either sign
    features = replace(features, edit_prompt=near)
    assert features.edit_prompt is not None
    each = []
    for row in range(ROWS):
        if row % 3 == 1:
            continue
        plain = features.text[row] if row % 2 == 0 else features.edit_text[row]
        prompt = features.edit_prompt[row]
        floor = mean([abs(float(prompt @ features.text[other])) for other in range(ROWS) if other != row])
        each.append(max(0.0, abs(float(plain @ prompt)) - floor))
    assert sum(value > 0 for value in each) not in (0, len(each))  # both sides of the floor occur
    assert float(SpuriousPrompts()(features)["spurious_prompts"]) == pytest.approx(mean(each))


def test_mistakes_are_named() -> None:
    for kind in ALL:
        with pytest.raises(LossError, match=r"carries none: take datamodules\.decorrelated\.DecorrelatedDataModule"):
            kind()(random_features())
    with pytest.raises(LossError, match=r"name the objects of edits.*Features\.edit_prompt"):
        SpuriousPrompts()(edited_features(edit_prompt=None))
    for options, message in (
        ({"a1": -1.0}, "a1 must be a finite number of at least 0"),
        ({"a1": 0.0, "a2": 0.0}, "every weight is 0"),
    ):
        with pytest.raises(LossError, match=message):
            CounterfactualContrast(**options)
    for broken, message in (
        ({"rows": "image"}, "rows must be one of 'picture', 'caption'"),
        ({"sign": "-"}, "sign must be one of 'above', 'below'"),
        ({"tau2": math.inf}, "tau2 must be a finite number"),
    ):
        with pytest.raises(LossError, match=message):
            OHDMargins(**broken)  # type: ignore[arg-type]
