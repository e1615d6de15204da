"""Every remedy's file gives it back bit by bit, pictures' maps fold, and what is no remedy is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_people import calibration, queries
from safetensors.torch import load_file, save_file
from tiny_retriever import random_images, tiny

from models import ModelError
from models.erasure import fold
from models.remedies import (
    AttributeSubspace,
    Clipping,
    Equalisation,
    FeatureImputation,
    Fitted,
    FittedLinear,
    GreedyRanking,
    Interleaving,
    IterativeNullSpace,
    Leace,
    LeastChange,
    OrthogonalCalibration,
    OrthogonalProjection,
    Remedy,
    load_fitted,
    save_fitted,
)

REMEDIES: dict[str, Remedy] = {
    "projection": OrthogonalProjection(),
    "calibration": OrthogonalCalibration(side="both"),
    "equalisation": Equalisation(5),
    "local equalisation": Equalisation(None, local=True),
    "subspace": AttributeSubspace(),
    "picture subspace": AttributeSubspace("pictures", full=True, side="image"),
    "null space": IterativeNullSpace(2),
    "leace": Leace(),
    "clipping": Clipping(side="image"),
    "imputation": FeatureImputation(3, trees=50, confidence=1.0),
    "least change": LeastChange(),
    "greedy": GreedyRanking(),
    "interleaving": Interleaving(),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_a_file_gives_the_remedy_back(tmp_path: Path, name: str) -> None:
    data = calibration()
    fitted = REMEDIES[name].fit(data)
    save_fitted(tmp_path / "new" / "a.safetensors", fitted)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.safetensors"]
    again = load_fitted(tmp_path / "new" / "a.safetensors")
    assert type(again) is type(fitted)
    assert again.metadata == json.loads(json.dumps(fitted.metadata))
    assert again.metadata["width"] == data.width
    for key, tensor in fitted.state().items():
        assert torch.equal(dict(again.state())[key], tensor)
        assert dict(again.state())[key].dtype == tensor.dtype
    x, scores = queries(7, 3, 1), torch.rand(4, 30, generator=torch.Generator().manual_seed(0))
    group = torch.arange(30) % 4 - 1
    assert torch.equal(again.text(x), fitted.text(x))
    assert torch.equal(again.image(x), fitted.image(x))
    mine, theirs = fitted.rank(scores, group), again.rank(scores, group)
    assert (mine is None) == (theirs is None)
    assert mine is None or (theirs is not None and torch.equal(mine, theirs))
    assert (fitted.linear() is None) == (again.linear() is None)


class Own(FittedLinear):
    """A class that this package does not know."""


def test_what_is_no_remedy_is_refused(tmp_path: Path) -> None:
    own = Own(None, None, {"width": 3})
    save_fitted(tmp_path / "own.safetensors", own)
    assert type(load_fitted(tmp_path / "own.safetensors", Own)) is Own
    save_file({"weight": torch.eye(2)}, str(tmp_path / "plain.safetensors"))
    (tmp_path / "text.safetensors").write_text("text")
    for name, kind in (("gone", "models.remedies.gone.Fitted"), ("other", "models.remedies.base.replace"),
                       ("evil", "os.system"), ("remedy", "models.remedies.base.Remedy")):  # fmt: skip
        metadata = {"remedy": json.dumps({"class": kind, "metadata": {}})}
        save_file({"weight": torch.eye(2)}, str(tmp_path / f"{name}.safetensors"), metadata=metadata)
    for name, words in (
        ("own", "naming the class"), ("plain", "holds no remedy"), ("text", "cannot be read"),
        ("absent", "no such remedy"), ("gone", "does not have"), ("other", "does not have"),
        ("evil", "none of models.remedies"), ("remedy", "no fitted remedy"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=words):
            load_fitted(tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelError, match=r"not models\.remedies\.base\.FittedLinear"):
        load_fitted(tmp_path / "own.safetensors", FittedLinear)
    with pytest.raises(ModelError, match=r"in \.safetensors"):
        save_fitted(tmp_path / "own.pt", own)


def test_pictures_maps_fold_into_a_checkpoint(tmp_path: Path) -> None:
    retriever = tiny(tmp_path).eval()
    images = random_images(4, retriever.image_size[0], seed=7)
    width = retriever.embed_dim
    data = calibration()
    narrow: Any = {
        name: torch.nn.functional.normalize(getattr(data, name)[..., :width], dim=-1)
        for name in ("image", "words", "group_prompts", "pair_image", "pair_text", "composed")
    }
    for remedy in (Leace(), AttributeSubspace("pictures", full=True, side="image"), Clipping(side="image")):
        fitted: Fitted = remedy.fit(replace(data, **narrow))
        linear = fitted.linear()
        assert linear is not None
        state = {key: tensor.clone() for key, tensor in retriever.state_dict().items()}
        with torch.no_grad():
            expected = fitted.image(retriever.encode_image(images))
            fold(retriever, linear)
            torch.testing.assert_close(retriever.encode_image(images), expected, rtol=0, atol=1e-5)
        retriever.load_state_dict(state)
    assert OrthogonalProjection("both").fit(data).linear() is None
    assert set(load_file(_written(tmp_path, Leace().fit(data)))) == {"image_matrix"}


def _written(folder: Path, fitted: Fitted) -> str:
    save_fitted(folder / "one.safetensors", fitted)
    return str(folder / "one.safetensors")
