"""The torchmetrics classes: pieces, repeated rows, and two real processes against one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from bias_train.metrics.embedding import EmbeddingMetric
from bias_train.metrics.functional.object.questions import Queries, Questions, answers
from bias_train.metrics.functional.retrieval import retrieval
from bias_train.metrics.functional.social.word_bias import word_bias
from bias_train.metrics.functional.source import source_bias
from bias_train.metrics.functional.text.questions import (
    Attacks,
    Erasures,
    Overlays,
    Pairs,
    TextQuestions,
    Words,
    text_answers,
)
from bias_train.metrics.object import ObjectDecorrelation
from bias_train.metrics.retrieval import RetrievalMetrics
from bias_train.metrics.social import SocialBias
from bias_train.metrics.source import SourceBias
from bias_train.metrics.text import TextSpotting
from bias_train.stats import Bootstrap

PAIRS, CAPTIONS = 15, 2


def table() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scene = torch.randn(PAIRS, 8, generator=generator)
    target = torch.arange(PAIRS)
    rows = torch.cat([scene, scene])
    return {
        "text": scene.repeat_interleave(CAPTIONS, 0) + torch.randn(PAIRS * CAPTIONS, 8, generator=generator),
        "query_target": target.repeat_interleave(CAPTIONS),
        "query_slot": torch.arange(CAPTIONS).repeat(PAIRS),
        "image": rows + 0.5 * torch.randn(rows.shape, generator=generator),
        "image_target": torch.cat([target, target]),
        "image_source": torch.arange(2).repeat_interleave(PAIRS),
        "image_group": torch.arange(2 * PAIRS) % 3,
    }


def questions() -> Questions:
    """The second half of the pictures are the first with an object taken out, of two to four in each."""
    rng = np.random.default_rng(0)
    pictures, texts = np.arange(PAIRS), np.arange(PAIRS * CAPTIONS)
    present, said = rng.random((PAIRS, 4)) < 0.6, rng.random((len(texts), 4)) < 0.4
    present[:, 0] = True
    asked = Queries(
        pictures + PAIRS, pictures, pictures[::-1].copy(), np.zeros(PAIRS, dtype=np.int64), present, pictures, texts,
        said,
    )  # fmt: skip
    return Questions(tuple("abcd"), asked, None, texts, texts // CAPTIONS, pictures, pictures, ((0, 1),))


def text_questions() -> TextQuestions:
    """The second half of the pictures are the first with a word on them, and stand for all else that is asked."""
    pictures, texts = np.arange(PAIRS), np.arange(PAIRS * CAPTIONS)
    own, first, no_word = texts // CAPTIONS, texts[::CAPTIONS], np.where(pictures % 4 == 0, -1, (pictures + 1) % PAIRS)
    some = np.where(pictures % 3 == 0, -1, pictures)
    captions = (pictures, texts, own)
    return TextQuestions(
        Pairs(pictures, pictures, texts, own),
        Words(("white/black", "black/white"), np.stack([pictures, pictures + PAIRS]), first),
        Overlays(pictures, pictures + PAIRS, first[::-1].copy(), *captions, np.where(pictures % 3 == 1, -1, first)),
        Pairs(pictures + PAIRS, pictures % 5, texts, own % 5),
        Attacks(pictures + PAIRS, some, pictures, no_word, pictures, first),
        (("RSA", Erasures(pictures, pictures + PAIRS, some, *captions, without_text=2)),),
    )


def metrics() -> dict[str, EmbeddingMetric]:
    return {
        "pair": SourceBias(mode="paper", bootstrap=Bootstrap(50)),
        "label": SourceBias(
            ks=(1, 4), precision_ks=(3,), relevance="label", bootstrap=Bootstrap(50),
            target_names=[f"scene {i}" for i in range(PAIRS)],
        ),
        "retrieval": RetrievalMetrics(bootstrap=Bootstrap(50)),
        "social": SocialBias(3, (4,), bootstrap=Bootstrap(50), floor_draws=50),
        "object": ObjectDecorrelation(questions(), ks=(1, 4), bootstrap=Bootstrap(50)),
        "text": TextSpotting(text_questions(), ks=(1, 4), bootstrap=Bootstrap(50)),
    }  # fmt: skip


def functional() -> dict[str, list[Any]]:
    data = table()
    ids = (data["text"], data["image"], data["query_target"], data["image_target"])
    return {
        "pair": source_bias(*ids, data["image_source"], mode="paper", query_slot=data["query_slot"],
                            bootstrap=Bootstrap(50)),
        "label": source_bias(*ids, data["image_source"], ks=(1, 4), precision_ks=(3,), relevance="label",
                             bootstrap=Bootstrap(50), target_names=[f"scene {i}" for i in range(PAIRS)]),
        "retrieval": retrieval(*ids, bootstrap=Bootstrap(50)),
        "social": word_bias(*ids[:2], data["image_group"], 3, ks=(4,), bootstrap=Bootstrap(50),
                            floor_draws=50).figures(),
        "object": answers(questions(), data["image"], data["text"], ks=(1, 4), bootstrap=Bootstrap(50)).figures(),
        "text": text_answers(text_questions(), data["image"], data["text"], ks=(1, 4),
                             bootstrap=Bootstrap(50)).figures(),
    }  # fmt: skip


def feed(metric: EmbeddingMetric, *, images: torch.Tensor | None = None, texts: torch.Tensor | None = None) -> None:
    """Give the metric these rows of the table, in this order."""
    data = table()
    if images is not None:
        columns = {f"image_{name}": data[f"image_{name}"][images] for name in metric.image_columns}
        metric.update(image=data["image"][images], image_id=images, **columns)
    if texts is not None:
        columns = {f"query_{name}": data[f"query_{name}"][texts] for name in metric.text_columns}
        metric.update(text=data["text"][texts], query_id=texts, **columns)


@pytest.mark.parametrize("name", ["pair", "label", "retrieval", "social", "object", "text"])
def test_pieces_in_any_order_with_repeats_equal_the_function(name: str) -> None:
    metric = metrics()[name]
    order = torch.randperm(2 * PAIRS, generator=torch.Generator().manual_seed(1))
    for piece in order.split(7):
        feed(metric, images=piece)
    feed(metric, images=order[:4], texts=torch.arange(PAIRS * CAPTIONS).flip(0))
    reference = functional()[name]
    # By their text, in which NaN equals NaN: the same figures, bit for bit.
    assert repr(metric.figures()) == repr(reference)
    values = metric.compute()
    first = reference[0]
    assert float(values[first.key]) == first.value
    assert len(values) == len(reference)
    if name == "label":
        assert "source_share@1/label=scene 3" in values
    metric.reset()
    with pytest.raises(ValueError, match="no image rows"), pytest.warns(UserWarning, match="before the ``update``"):
        metric.compute()


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        found = {}
        for name, metric in metrics().items():
            # Uneven pieces, rows that both ranks hold, and a rank without any text.
            images = torch.arange(0, 19) if rank == 0 else torch.arange(2 * PAIRS - 1, 15, -1)
            feed(metric, images=images, texts=torch.arange(PAIRS * CAPTIONS) if rank == 1 else None)
            found[name] = repr(metric.figures())
            assert len(metric.image_id[0]) == len(images), "the rank's own state comes back after the sync"
        torch.save(found, f"{folder}/rank{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(run_rank, args=(str(tmp_path),), nprocs=2)
    reference = {name: repr(figures) for name, figures in functional().items()}
    for rank in range(2):
        assert torch.load(tmp_path / f"rank{rank}.pt") == reference


def test_half_precision_embeddings_are_kept_as_float32() -> None:
    metric = RetrievalMetrics()
    metric.update(image=torch.eye(2).bfloat16(), image_id=torch.arange(2), image_target=torch.arange(2))
    metric.update(text=torch.eye(2).half(), query_id=torch.arange(2), query_target=torch.arange(2))
    assert float(metric.compute()["i2t_R@1"]) == 1.0


class TestErrors:
    eye, ids = torch.eye(2), torch.arange(2)

    def test_ids_are_needed(self) -> None:
        with pytest.raises(ValueError, match="image_id is missing"):
            RetrievalMetrics().update(image=self.eye, image_target=self.ids)
        with pytest.raises(ValueError, match=r"query_target has shape \(1,\), but text has 2 rows"):
            RetrievalMetrics().update(text=self.eye, query_id=self.ids, query_target=self.ids[:1])

    def test_one_id_with_two_targets(self) -> None:
        metric = RetrievalMetrics()
        metric.update(image=self.eye, image_id=self.ids * 0 + 7, image_target=self.ids)
        with pytest.raises(ValueError, match="image id 7 came twice with another target"):
            metric.compute()

    def test_a_collapsed_embedding_names_its_id(self) -> None:
        metric = RetrievalMetrics()
        metric.update(image=self.eye * torch.tensor([[1.0], [float("inf")]]), image_id=self.ids + 40,
                      image_target=self.ids)  # fmt: skip
        with pytest.raises(ValueError, match="image of id 41 is not finite"):
            metric.compute()

    def test_rows_that_are_missing(self) -> None:
        metric = ObjectDecorrelation(questions())
        metric.update(image=self.eye, image_id=self.ids + 1, text=self.eye, query_id=self.ids)
        with pytest.raises(ValueError, match="image_id must hold every row number from 0 on; there are 2"):
            metric.compute()
        metric.reset()
        metric.update(image=self.eye, image_id=self.ids, text=self.eye, query_id=self.ids)
        with pytest.raises(ValueError, match="image has 2 rows, but row 29 is asked for"):
            metric.compute()

    def test_rows_of_text_questions_that_are_missing(self) -> None:
        metric = TextSpotting(text_questions())
        metric.update(image=self.eye, image_id=self.ids, text=self.eye, query_id=self.ids)
        with pytest.raises(ValueError, match="image has 2 rows, but row 14 is asked for"):
            metric.compute()

    def test_slots_for_some_queries_only(self) -> None:
        metric = SourceBias()
        metric.update(image=self.eye, image_id=self.ids, image_target=self.ids, image_source=self.ids)
        metric.update(text=self.eye, query_id=self.ids, query_target=self.ids)
        metric.update(text=self.eye, query_id=self.ids + 2, query_target=self.ids, query_slot=self.ids)
        with pytest.raises(ValueError, match="query_slot was given for some queries only"):
            metric.compute()
