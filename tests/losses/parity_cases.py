"""What every loss must pass: the same gradient on one process and on several. Add a line here with each new loss."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from losses import (
    AntiSync,
    AttributeAdversary,
    ConstrainedGap,
    CounterfactualContrast,
    CounterfactualInfoNCE,
    Features,
    GroupScores,
    GroupSpread,
    HardNegativeCaptions,
    InfoNCE,
    JointAlignment,
    KeepStart,
    Loss,
    OHDMargins,
    OverlayInvariance,
    PairwiseSoftmax,
    PromptAdversary,
    RankHinge,
    ScoreDistribution,
    SigLIP,
    SourceAdversary,
    SourceCORAL,
    SourceMMD,
    SpuriousPrompts,
    TwinConsistency,
    TwoSourceContrastive,
    TypographicNegative,
)
from models.gather import gather_with_gradient

ROWS, PIXELS, WIDTH = 24, 9, 6
PEOPLE, PROMPTS, GROUPS, WORDS = 20, 5, 3, 7
ENCODED = ("pixels", "tokens", "twin", "people", "queries", "edit", "edit_tokens", "edit_prompt", "words", "spelt")

OPTIONS: dict[type[Loss], list[dict[str, Any]]] = {
    InfoNCE: [{"duplicates": name, "chunk": chunk} for name in ("mask", "positive", "negative") for chunk in (0, 5)],
    SigLIP: [{"duplicates": name, "chunk": chunk} for name in ("mask", "positive", "negative") for chunk in (0, 5)],
    RankHinge: [
        {},
        {"two_sided": True, "margin": 0.2},
        {"p": 0.4, "draw": "bernoulli", "margin": 5.0},
        {"p": 0.4, "draw": "fixed", "reduction": "sum", "margin": 5.0},
        {"unit": "cosine", "reduction": "sum"},
        {"two_sided": True, "squared": True},
    ],
    PairwiseSoftmax: [{}, {"beta": 0.5, "two_sided": True, "p": 0.6, "draw": "fixed"}, {"reduction": "sum"}],
    TwinConsistency: [{}, {"teacher": "frozen"}],
    ScoreDistribution: [
        {},
        {"order": 2},
        {"compare": "caption", "min_count": 1},
        {"compare": "group", "min_count": 2, "unit": "cosine"},
        {"compare": "all"},
        {"compare": "all", "order": 2, "unit": "cosine"},
    ],
    TwoSourceContrastive: [{}, {"directions": "text_to_image", "duplicates": "negative"}],
    ConstrainedGap: [
        {"epsilon": 0.01},
        {"epsilon": 0.0, "penalty": 0.0, "dual_rate": 0.5},
        {"epsilon": 0.02, "dual_rate": 3.0, "unit": "cosine", "limit": 0.1},
    ],
    SourceAdversary: [{}, {"condition": "caption"}, {"head": "linear", "strength": 0.7, "warmup_steps": 5}],
    SourceMMD: [
        {},
        {"pictures": "pairs", "min_count": 2},
        {"within": "group", "min_count": 2, "bandwidth": 0.8, "multiples": [1.0]},
        {"within": "caption", "min_count": 1, "unbiased": False},
    ],
    SourceCORAL: [{}, {"pictures": "pairs", "covariance": 2.0}, {"within": "group", "min_count": 2, "unbiased": False}],
    PromptAdversary: [{"groups": GROUPS}, {"groups": GROUPS, "hidden": 4, "strength": 0.7, "warmup_steps": 5}],
    AttributeAdversary: [{"groups": [GROUPS]}, {"groups": [GROUPS, 2], "hidden": 4, "strength": 0.7}],
    KeepStart: [{}, {"of": ["pictures", "captions", "people"]}, {"of": ["prompts", "group_prompts"]}],
    GroupScores: [{}, {"order": 2, "min_count": 3}, {"unit": "logit"}, {"unit": "cosine", "order": 2}],
    GroupSpread: [{}, {"spread": "range"}],
    JointAlignment: [{}, {"distillation": 1.0, "alignment": 2.0, "temperature": 0.5}],
    CounterfactualContrast: [{}, {"a1": 0.5, "b1": 0.3, "b2": 0.2}],
    CounterfactualInfoNCE: [{}],
    HardNegativeCaptions: [{}],
    OHDMargins: [{}, {"rows": "caption", "sign": "below", "tau1": 5.0, "tau2": 5.0}],
    SpuriousPrompts: [{}],
    OverlayInvariance: [{}, {"target": "anchor"}],
    TypographicNegative: [{}, {"against": "caption"}, {"against": "prompt"}, {"calibrated": True}],
    AntiSync: [{}, {"side": "image"}, {"side": "text"}, {"floor": "moving"}],
}
# "uneven": pairs sit mostly on rank 0, none on the second quarter, and most groups of people too; "one": a single pair,
# one generated anchor besides, one person of another group than the rest; "none": no pair, photos only, people of one
# group. Edits are where pairs are.
BATCHES = ("uneven", "one", "none")
CASES = [
    (kind, index, batch) for kind, options in OPTIONS.items() for index in range(len(options)) for batch in BATCHES
]


def case_name(kind: type[Loss], index: int, batch: str) -> str:
    options = ",".join(f"{name}={value}" for name, value in OPTIONS[kind][index].items())
    return f"{kind.__name__}({options})-{batch}"


class Towers(nn.Module):
    """A linear dual encoder in float64, alike on every rank."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.image, self.text = weight(PIXELS, WIDTH), weight(PIXELS, WIDTH)
        self.log_scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))


def global_batch(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(8)
    pixels, tokens, twin = torch.randn(3, ROWS, PIXELS, generator=generator, dtype=torch.float64)
    row = torch.arange(ROWS)
    if name == "uneven":
        source = torch.randint(0, 3, (ROWS,), generator=generator)
        has_twin = (row < 6) | (row == 13) | (row == 14) | (row == 19)
    else:
        source = torch.zeros(ROWS, dtype=torch.int64)
        has_twin = torch.zeros(ROWS, dtype=torch.bool)
        if name == "one":
            has_twin[7] = True
            source[20] = 1
    teacher = F.normalize(torch.randn(3, ROWS, WIDTH, generator=generator, dtype=torch.float64), dim=2)
    person_group = torch.zeros(PEOPLE, dtype=torch.int64)
    if name == "uneven":
        person_group[:8] = torch.tensor([2, 1, 2, -1, 1, 1, 2, 2])
        person_group[17] = -1
    elif name == "one":
        person_group[13] = 1
    people, queries = PEOPLE, PROMPTS + 2 * GROUPS
    moved = F.normalize(torch.randn(people + queries, WIDTH, generator=generator, dtype=torch.float64), dim=1)
    edit, edit_tokens, edit_prompt = torch.randn(3, ROWS, PIXELS, generator=generator, dtype=torch.float64)
    words, spelt = torch.randn(2, WORDS, PIXELS, generator=generator, dtype=torch.float64)
    return {
        "words": words,
        "spelt": spelt,
        "edit": edit,
        "edit_tokens": edit_tokens,
        "edit_prompt": edit_prompt,
        "has_edit": has_twin,
        "edit_added": row % 3 == 0,
        "edit_caption_id": torch.randint(0, 5, (ROWS,), generator=generator),
        "people": torch.randn(people, PIXELS, generator=generator, dtype=torch.float64),
        "queries": torch.randn(queries, PIXELS, generator=generator, dtype=torch.float64),
        "person_group": person_group,
        "person_attributes": torch.stack([person_group, (person_group + 1).clamp(max=1)], dim=1),
        "teacher_person": moved[:people],
        "teacher_prompt": moved[people : people + PROMPTS],
        "teacher_group_prompt": moved[people + PROMPTS :],
        "group_prompt_of": torch.arange(2 * GROUPS) % GROUPS,
        "pixels": pixels,
        "tokens": tokens,
        "twin": twin,
        "source": source,
        "has_twin": has_twin,
        "group": torch.randint(0, 4, (ROWS,), generator=generator),
        "caption_id": torch.randint(0, 5, (ROWS,), generator=generator),
        "teacher_image": teacher[0],
        "teacher_twin": teacher[1],
        "teacher_text": teacher[2],
    }


def value_and_gradients(case: tuple[type[Loss], int, str], rank: int, world: int) -> dict[str, Tensor]:
    """Encode this rank's rows, gather, score, and average over ranks as DistributedDataParallel does."""
    kind, index, name = case
    towers, loss, batch = Towers(), kind(**OPTIONS[kind][index]), global_batch(name)
    loss.prepare(WIDTH, seed=4, prompts=PROMPTS)
    loss.double()
    size = ROWS // world
    rows = slice(rank * size, (rank + 1) * size)
    person_rows = slice(rank * PEOPLE // world, (rank + 1) * PEOPLE // world)
    twin_row = batch["has_twin"][rows].nonzero().flatten()
    # Anchors, the drawn twins, people and words in one forward, as the module does.
    drawn = [batch[name][rows][twin_row] for name in ("twin", "edit")]
    encoded = F.normalize(
        torch.cat([batch["pixels"][rows], *drawn, batch["people"][person_rows], batch["words"]]) @ towers.image, dim=1
    )
    *drawn, person, word = encoded[size:].split([len(twin_row), len(twin_row), PEOPLE // world, WORDS])
    nothing = torch.zeros(size, WIDTH, dtype=torch.float64)
    twin, edit = (nothing.index_copy(0, twin_row, part) for part in drawn)
    said = [batch[name][rows][twin_row] for name in ("edit_tokens", "edit_prompt")]
    edit_text, edit_prompt = (
        nothing.index_copy(0, twin_row, F.normalize(tokens @ towers.text, dim=1)) for tokens in said
    )
    queries = F.normalize(batch["queries"] @ towers.text, dim=1)
    features = Features(
        image=gather_with_gradient(encoded[:size]),
        text=gather_with_gradient(F.normalize(batch["tokens"][rows] @ towers.text, dim=1)),
        twin=gather_with_gradient(twin),
        edit=gather_with_gradient(edit),
        edit_text=gather_with_gradient(edit_text),
        edit_prompt=gather_with_gradient(edit_prompt),
        logit_scale=towers.log_scale.exp(),
        logit_bias=towers.bias,
        person=gather_with_gradient(person),
        prompt=queries[:PROMPTS],
        group_prompt=queries[PROMPTS:],
        word_image=word,
        word_text=F.normalize(batch["spelt"] @ towers.text, dim=1),
        rows=rows,
        person_rows=person_rows,
        step=2,
        seed=4,
        **{key: value for key, value in batch.items() if key not in ENCODED},
    )
    loss(replace(features, step=1))  # what a loss remembers of a step must not depend on the number of ranks either
    value = torch.stack(list(loss(features).values())).sum()
    value.backward()
    result = {"value": value.detach()}
    result |= {buffer_name: buffer.double() for buffer_name, buffer in loss.named_buffers()}
    for parameter_name, parameter in [*towers.named_parameters(), *loss.named_parameters()]:
        result[parameter_name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    if world > 1:
        for tensor in result.values():
            dist.all_reduce(tensor)
            tensor /= world
    return result


def worker(rank: int, world: int, folder: str) -> None:
    """Run every case on one rank; rank 0 saves the averages."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    results = {case_name(*case): value_and_gradients(case, rank, world) for case in CASES}
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    dist.destroy_process_group()
