"""People and prompts in a training step: what is encoded, drawn and named, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_retriever import TinyData, make_batch, tiny, trainer
from torch import Tensor

from losses import Features, GroupScores, GroupSpread, InfoNCE, KeepStart, Loss, PromptAdversary
from models import LossTerm, ModelError, OptimizerConfig, PromptConfig, RetrieverModule

NEUTRAL = ["a smart person", "a lazy person", "a rich person", "a kind person"]
GROUPS = {"Female": ["a woman", "a female face"], "Male": ["a man", "a male face"]}


class Probe(Loss):
    """Asks for people and prompts, and keeps what it was given."""

    needs_people = True
    needs_prompts = True

    def __init__(self, named: bool = False, teacher: bool = False) -> None:
        super().__init__()
        self.needs_group_prompts = named
        self.needs_teacher = teacher
        self.seen: list[Features] = []

    def forward(self, features: Features) -> dict[str, Tensor]:
        self.seen.append(features)
        return {"probe": features.image.sum() * 0}


def module_with(retriever: Any, prompts: PromptConfig | None = None, **losses: Loss) -> RetrieverModule:
    terms = {name: LossTerm(loss) for name, loss in losses.items()}
    return RetrieverModule(retriever, terms, OptimizerConfig(lr=1e-3), prompts=prompts)


class People(TinyData):
    """Data that says which groups there are."""

    attribute = "gender"
    groups = ("Male", "Female")  # not in the order of GROUPS


def test_people_share_the_anchors_batch_norm(tmp_path: Path) -> None:
    """The features are those of one forward over anchors, twins and people, which separate forwards do not give."""
    retriever = tiny(tmp_path, "resnet").train()
    probe = Probe()
    probe.needs_twin = True
    module = module_with(retriever, PromptConfig(NEUTRAL), probe=probe)
    batch = make_batch(retriever, twins=(5, 0), people=(0, 1, -1))
    together = retriever.encode_image(torch.cat([batch["image"], batch["twin"], batch["person"]]))
    features = module.features(batch)
    torch.testing.assert_close(features.image, together[:8])
    assert features.twin is not None
    torch.testing.assert_close(features.twin[[5, 0]], together[8:10])
    assert features.person is not None
    torch.testing.assert_close(features.person, together[10:])
    assert features.person_group is not None
    assert features.person_group.tolist() == [0, 1, -1]
    assert features.person_attributes is not None
    assert features.person_attributes.tolist() == [[0, 0], [1, 1], [-1, 0]]
    assert features.local_people == slice(0, 3)
    assert not torch.allclose(retriever.encode_image(batch["person"]), features.person, atol=1e-4)


def test_people_are_not_encoded_where_no_loss_asks(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    features = module_with(retriever, PromptConfig(NEUTRAL), c=InfoNCE()).features(make_batch(retriever, people=(0, 1)))
    assert features.person is None
    assert features.prompt is None


def test_prompts_are_the_retrievers_and_the_teachers(tmp_path: Path) -> None:
    retriever, start = tiny(tmp_path), tiny(tmp_path)
    probe = Probe(named=True, teacher=True)
    module = module_with(retriever, PromptConfig(NEUTRAL, groups=GROUPS), probe=probe, c=InfoNCE())
    batch = make_batch(retriever, people=(0, 1, 0, 1))
    trainer(tmp_path, max_steps=2).fit(module, People([batch] * 2))
    first, second = probe.seen
    with torch.no_grad():
        neutral = start.encode_text(start.tokenize(NEUTRAL))
        named = start.encode_text(start.tokenize(["a man", "a male face", "a woman", "a female face"]))
    for features in (first, second):
        assert features.group_prompt_of is not None
        assert features.group_prompt_of.tolist() == [0, 0, 1, 1]  # in the order of the data's groups
        torch.testing.assert_close(features.teacher_prompt, neutral)
        torch.testing.assert_close(features.teacher_group_prompt, named)
        assert features.teacher_person is not None
    torch.testing.assert_close(first.prompt, neutral)
    torch.testing.assert_close(first.group_prompt, named)
    assert first.prompt is not None
    assert first.prompt.requires_grad
    assert second.prompt is not None
    assert not torch.allclose(second.prompt, neutral, atol=1e-4)


def test_a_step_draws_its_prompts_by_seed_and_step_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(seed: str) -> list[list[int]]:
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        retriever, probe = tiny(tmp_path), Probe(teacher=True)
        module = module_with(retriever, PromptConfig([*NEUTRAL, *CAPTIONS], per_step=3), probe=probe, c=InfoNCE())
        torch.rand(5)  # what else draws numbers must not matter
        trainer(tmp_path, max_steps=4).fit(module, TinyData([make_batch(retriever, people=(0, 1))] * 4))
        texts = start.encode_text(start.tokenize([*NEUTRAL, *CAPTIONS])).detach()
        # The teacher's rows say which they are.
        found = [(f.teacher_prompt @ texts.T).argmax(dim=1).tolist() for f in probe.seen]  # type: ignore[operator]
        assert all(len(set(rows)) == 3 and rows == sorted(rows) for rows in found)
        return found

    start = tiny(tmp_path)
    first = drawn("7")
    assert first == drawn("7")
    assert first != drawn("8")
    assert len({tuple(rows) for rows in first}) > 1


CAPTIONS = ["a dog", "a truck on a road", "the sea", "a red bird"]


def test_words_and_groups_come_from_files_and_sets(tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text(
        "word,category,part_of_speech\nbrisk,a,adjective\nactor,b,noun\nbrisk,c,adjective\n"
    )
    config = PromptConfig(["a person"], words=str(tmp_path / "words.csv"))
    assert config.neutral_queries() == ["a person", "A photo of a brisk person.", "A photo of an actor."]
    assert len(PromptConfig(words="berg").neutral_queries()) == 29
    (tmp_path / "groups.json").write_text(json.dumps({"kind": {"round": ["round one", "round two"], "square": ["s"]}}))
    named = PromptConfig(groups_file=str(tmp_path / "groups.json"))
    assert named.queries_of_groups("kind", ("square", "round")) == [(0, "s"), (1, "round one"), (1, "round two")]
    # Where nothing is given the project's own words for the labels are taken.
    own = PromptConfig().queries_of_groups("race x gender", ("Black x Female", "White x Male"))
    assert {code for code, _ in own} == {0, 1}
    assert own[0] == (0, "A photo of a Black woman.")


@pytest.mark.parametrize(
    ("config", "loss", "message"),
    [
        (PromptConfig(), GroupScores(), r"model\.losses\.odd reads neutral queries.*model\.prompts\.neutral"),
        (PromptConfig(["a", "b", "a"]), GroupScores(), r"query 'a' stands twice"),
        (PromptConfig(["a"], per_step=2), GroupScores(), r"per_step is 2, but there are 1"),
    ],
)
def test_prompts_that_cannot_work_are_refused_at_once(
    tmp_path: Path, config: PromptConfig, loss: Loss, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        module_with(tiny(tmp_path), config, odd=loss)


def test_mistakes_are_named(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    with pytest.raises(ModelError, match="per_step is -1"):
        PromptConfig(per_step=-1)
    with pytest.raises(ModelError, match=r"the loss scores is about pictures of people.*data\.people"):
        module_with(retriever, PromptConfig(NEUTRAL), scores=GroupScores()).features(make_batch(retriever))
    with pytest.raises(ModelError, match=r"nothing says which groups: set model\.prompts\.groups"):
        module_with(retriever, PromptConfig(NEUTRAL), spread=GroupSpread()).features(make_batch(retriever))
    wrong = PromptConfig(NEUTRAL, groups={"Female": ["a woman"], "Other": ["a person"]})
    strangers = module_with(retriever, wrong, spread=GroupSpread())
    with pytest.raises(ModelError, match=r"names Female, Other, but the groups of data\.attribute are Male, Female"):
        trainer(tmp_path, max_steps=1).fit(strangers, People([make_batch(retriever)]))
    empty = PromptConfig(NEUTRAL, groups={"Female": [], "Male": ["a man"]})
    with pytest.raises(ModelError, match=r"model\.prompts\.groups\.Female is empty"):
        empty.queries_of_groups(None, None)
    # The head of an adversary reads all prompts.
    some = module_with(retriever, PromptConfig(NEUTRAL, per_step=2), odd=PromptAdversary())
    with pytest.raises(ModelError, match=r"model\.losses\.odd: PromptAdversary.*per_step = 0"):
        trainer(tmp_path, max_steps=1).fit(some, TinyData([make_batch(retriever, people=(0, 1))]))


def test_training_on_people_lowers_the_gap_and_repeats_bit_for_bit(tmp_path: Path) -> None:
    ends = []
    for _ in range(2):
        retriever = tiny(tmp_path, "resnet", seed=5)
        losses = {"scores": GroupScores(), "keep": KeepStart(of=["people"]), "c": InfoNCE()}
        module = module_with(retriever, PromptConfig(NEUTRAL), **losses)
        batch = make_batch(retriever, people=(0, 1) * 4)
        batch["person"][::2] //= 3  # one group's pictures are dark
        values: list[float] = []
        module.on_train_batch_end = lambda *_, m=module, v=values: v.append(  # type: ignore[method-assign, misc]
            float(m.trainer.callback_metrics["train/scores/group_scores"])
        )
        trainer(tmp_path, max_steps=15).fit(module, TinyData([batch] * 15))
        assert values[-1] < 0.7 * values[0]
        ends.append({n: t.clone() for n, t in retriever.state_dict().items()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
