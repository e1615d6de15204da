"""What happens to pixels: inpainting, controls, decoys, and the look whether an object is gone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules import DataError
from datamodules.decorrelation.background import control_mask
from datamodules.decorrelation.inpaint import OpenCvInpainter
from datamodules.decorrelation.paste import paste
from datamodules.decorrelation.verify import FEWEST, Verifier


def rectangle(
    top: int, left: int, height: int, width: int, shape: tuple[int, int] = (96, 128)
) -> npt.NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


# Inpainting


@pytest.mark.parametrize("method", ["telea", "ns"])
def test_a_plane_is_restored(method: str) -> None:
    down, across = np.mgrid[0:96, 0:128]
    plane = np.stack([60 + down, 200 - across, np.full_like(down, 90)], axis=2).astype(np.uint8)
    mask = rectangle(40, 50, 16, 20)
    spoiled = plane.copy()
    spoiled[mask] = (255, 0, 255)
    filled = OpenCvInpainter(method)(spoiled, mask, 0)  # type: ignore[arg-type]
    assert np.array_equal(filled[~mask], plane[~mask])
    away = np.abs(filled.astype(int) - plane)[mask]
    assert away.mean() < 2
    assert away.max() <= 10
    assert (spoiled[mask] == (255, 0, 255)).all()  # the argument is left alone


def test_only_the_surroundings_count() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    mask = rectangle(40, 50, 10, 10)
    elsewhere = picture.copy()
    elsewhere[:10] = 0
    first, second = (OpenCvInpainter()(image, mask, 0) for image in (picture, elsewhere))
    assert np.array_equal(first[mask], second[mask])


def test_masks_at_the_edge_and_none() -> None:
    picture = np.full((20, 30, 3), 77, dtype=np.uint8)
    # OpenCV extrapolates at the edge, so a flat picture does not stay quite flat.
    filled = OpenCvInpainter()(picture, rectangle(0, 0, 12, 20, (20, 30)), 0)
    assert np.abs(filled.astype(int) - 77).max() <= 5
    assert np.array_equal(OpenCvInpainter()(picture, np.zeros((20, 30), dtype=bool), 0), picture)


def test_inpainters_that_cannot_be() -> None:
    with pytest.raises(DataError, match="choose telea or ns"):
        OpenCvInpainter("magic")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="radius"):
        OpenCvInpainter(radius=0)


# Controls


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 60), st.integers(0, 90), st.integers(1, 50), st.integers(1, 60)),
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 110), st.integers(1, 40), st.integers(1, 60)), max_size=4),
    st.integers(0, 5),
)
def test_controls_are_as_large_and_touch_nothing(
    place: tuple[int, int, int, int], others: list[tuple[int, int, int, int]], seed: int
) -> None:
    mask = rectangle(*place, shape=(93, 127))
    occupied = mask.copy()
    for other in others:
        occupied |= rectangle(*other, shape=(93, 127))
    found = control_mask(mask, occupied, seed)
    if found is None:
        assert (~occupied).sum() < mask.sum()
        return
    control, same_shape = found
    assert control.sum() == mask.sum()
    assert not (control & occupied).any()
    again = control_mask(mask, occupied, seed)
    assert again is not None
    assert np.array_equal(again[0], control)
    if same_shape:
        rows, columns = np.argwhere(control).T
        sides = {rows.max() - rows.min() + 1, columns.max() - columns.min() + 1}
        its_rows, its_columns = np.argwhere(mask).T
        assert sides == {its_rows.max() - its_rows.min() + 1, its_columns.max() - its_columns.min() + 1}


def test_a_shape_with_room_is_kept_and_seeds_differ() -> None:
    mask = rectangle(0, 0, 20, 20) & ~rectangle(0, 0, 10, 10)  # an L
    places = set()
    for seed in range(8):
        found = control_mask(mask, mask, seed)
        assert found is not None
        control, same_shape = found
        assert same_shape
        rows, columns = np.argwhere(control).T
        cut = control[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert np.array_equal(cut, mask[:20, :20])
        places.add((rows.min(), columns.min()))
    assert len(places) > 1
    assert control_mask(np.zeros_like(mask), mask, 0) is None
    assert control_mask(mask, np.ones_like(mask), 0) is None


# Decoys


def test_a_decoy_is_the_object_and_nothing_else() -> None:
    picture = np.zeros((96, 128, 3), dtype=np.uint8)
    donor = np.full((96, 128, 3), (0, 255, 0), dtype=np.uint8)
    outline = rectangle(30, 40, 24, 24)
    donor[outline] = (250, 10, 10)
    other = rectangle(0, 0, 96, 60)
    made = paste(picture, [other], donor, outline, 7)
    assert made is not None
    pasted, mask = made
    assert 0.01 <= mask.mean() <= 0.16
    assert not (mask & other).any()  # there was room beside it
    inner = np.argwhere(mask)
    centre = tuple(inner.mean(axis=0).astype(int))
    assert pasted[centre].tolist() == [250, 10, 10]
    assert (pasted[:, :, 1] <= 130).all()  # of the donor's background at most the soft edge
    rows = np.argwhere(pasted.any(axis=2))
    assert np.abs(rows.min(axis=0) - inner.min(axis=0)).max() <= 1
    again = paste(picture, [other], donor, outline, 7)
    assert again is not None
    assert np.array_equal(again[0], pasted)


def test_a_decoy_without_a_place() -> None:
    picture = np.zeros((96, 128, 3), dtype=np.uint8)
    full = [rectangle(top, left, 8, 8) for top in range(0, 96, 8) for left in range(0, 128, 8)]
    assert paste(picture, full, picture, rectangle(30, 40, 40, 40), 0) is None
    assert paste(picture, [], picture, np.zeros((96, 128), dtype=bool), 0) is None


# Verification


class Reddest:
    """Scores category 0 by the share of red pixels, category 1 by nothing."""

    name = "reddest"

    def __call__(self, pictures: Sequence[Image.Image]) -> npt.NDArray[np.float64]:
        red = [(np.asarray(image)[:, :, 0] > 128).mean() for image in pictures]
        return np.array([[share, 0.0] for share in red])


def test_what_is_still_there_is_found() -> None:
    absent = np.ones((100, 2), dtype=bool)
    absent[FEWEST - 1 :, 1] = False  # one picture too few
    reference = np.stack([np.linspace(0, 0.2, 100), np.zeros(100)], axis=1)
    verifier = Verifier(Reddest(), reference, absent)
    assert verifier.thresholds[0] == pytest.approx(0.19)  # the 95th of a hundred even steps
    black, red = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "red")
    verdicts = verifier([black, red, red], [0, 0, 1])
    assert [verdict["gone"] for verdict in verdicts] == [True, False, None]
    assert verdicts[2]["threshold"] is None
    assert verifier([], []) == []
    with pytest.raises(DataError, match="reddest"):
        Verifier(Reddest(), reference, absent[:5])
    with pytest.raises(DataError, match="reddest"):
        Verifier(Reddest(), reference * np.nan, absent)
