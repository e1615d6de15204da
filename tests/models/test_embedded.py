"""The gallery's table, and what a validation makes of it on one process (several: see the parity tests)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tiny_retriever import CAPTIONS, TinyData, make_batch, random_images, tiny, trainer

from losses import InfoNCE
from models import EmbeddedSet, LossTerm, ModelError, OptimizerConfig, RetrieverModule
from models.embedded import RowCollector

CPU = torch.device("cpu")


def test_rows_come_in_any_order_and_more_than_once() -> None:
    table = torch.arange(10.0).view(5, 2)
    collector = RowCollector()
    for index in (torch.tensor([4, 0]), torch.tensor([1, 4, 3]), torch.tensor([2])):
        collector.add(index, table[index].to(torch.float64))
    found = collector.table(5, 2, "pictures", CPU)
    assert torch.equal(found, table)
    assert found.dtype == torch.float32


def test_an_empty_table_has_its_width() -> None:
    assert RowCollector().table(0, 7, "pictures", CPU).shape == (0, 7)


@pytest.mark.parametrize(("rows", "message"), [([0, 1], "2 of 3 pictures"), ([0, 1, 2, 3], "index 3, but .* only 3")])
def test_missing_and_surplus_rows_are_told(rows: list[int], message: str) -> None:
    collector = RowCollector()
    collector.add(torch.tensor(rows), torch.zeros(len(rows), 2))
    with pytest.raises(ModelError, match=message):
        collector.table(3, 2, "pictures", CPU)


class Evaluate(Callback):
    def __init__(self) -> None:
        self.sets: list[EmbeddedSet] = []

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.sets.append(pl_module.embedded_set())
        assert pl_module.embedded_set() is self.sets[-1]


def test_validation_embeds_gallery_and_queries_as_they_are_then(tmp_path: Path) -> None:
    retriever = tiny(tmp_path, "resnet")
    gallery, queries = random_images(7, 32, seed=3), tuple(CAPTIONS)
    data = TinyData([make_batch(retriever, seed=s) for s in range(4)], gallery, queries)
    module = RetrieverModule(retriever, {"c": LossTerm(InfoNCE())}, OptimizerConfig(lr=1e-2), query_batch_size=3)
    evaluate = Evaluate()
    trainer(tmp_path, max_steps=4, val_check_interval=2, callbacks=[evaluate]).fit(module, data)
    first, last = evaluate.sets
    assert not torch.allclose(first.image, last.image, atol=1e-3)
    with torch.no_grad():
        module.eval()
        torch.testing.assert_close(last.image, retriever.encode_image(gallery))
        torch.testing.assert_close(last.text, retriever.encode_text(retriever.tokenize(CAPTIONS)))
    assert last.evaluation is data.evaluation


def test_a_part_of_the_gallery_is_refused(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    data = TinyData([make_batch(retriever)], random_images(7, 16), ("a dog",))
    module = RetrieverModule(retriever, {"c": LossTerm(InfoNCE())})
    with pytest.raises(ModelError, match=r"3 of 7 gallery pictures.*limit_val_batches"):
        trainer(tmp_path, limit_val_batches=1, callbacks=[Evaluate()]).validate(module, data)
    with pytest.raises(ModelError, match="nothing has been embedded"):
        RetrieverModule(retriever, {"c": LossTerm(InfoNCE())}).embedded_set()
