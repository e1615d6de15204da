"""What an audit of social bias costs: 400 words by 14 crossed groups, 11,000 pictures of 512 dimensions, on two cores.

    python tests/benchmarks/social.py [--json FILE] [--check]

Runs ``bias-train audit social`` and its figures alone in fresh processes on made-up vectors, whose values cost nothing:
every figure at k = 100, 500 and 1,000, 2,000 resamples, random retriever's floors, all outputs. Time is that of the
whole process, its start and the reading of the file included; memory is the most that was resident, as the system has
counted it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from fresh_process import measure_process, row, run

WORDS, PICTURES, WIDTH = 400, 11_000, 512
RACES, GENDERS, CATEGORIES = 7, 2, 9
KS = ("100", "500", "1000")
SIZE = f"{WORDS} words, {PICTURES:,} pictures, {WIDTH} dimensions, k = {', '.join(KS)}"

FIGURES = """
import sys
import numpy as np
from bias_train.metrics.functional.social.word_bias import word_bias
from bias_train.stats import Bootstrap

held = np.load(sys.argv[1])
names, code = np.unique(
    np.char.add(held["attribute_race"], held["attribute_gender"]), return_inverse=True
)
found = word_bias(
    held["text"], held["image"], code, len(names), ks=tuple(int(k) for k in sys.argv[3:]), bootstrap=Bootstrap(2000),
    permutations=int(sys.argv[2]),
)
found.figures()
"""


def write_vectors(path: Path) -> None:
    """Write unit vectors of people, of whom races and genders are told apart a little, and of words.

    Args:
        path: the .npz file.
    """
    rng = np.random.default_rng(0)
    race, gender = rng.integers(0, RACES, PICTURES), rng.integers(0, GENDERS, PICTURES)
    centre = rng.standard_normal((RACES + GENDERS, WIDTH), dtype=np.float32)

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    noise = rng.standard_normal((PICTURES, WIDTH), dtype=np.float32)
    lean = rng.standard_normal((WORDS, RACES + GENDERS), dtype=np.float32)
    np.savez(
        path,
        image=unit(noise + 0.3 * (centre[race] + centre[RACES + gender])),
        attribute_race=np.array([f"race {code}" for code in race.tolist()]),
        attribute_gender=np.array([f"gender {code}" for code in gender.tolist()]),
        text=unit(rng.standard_normal((WORDS, WIDTH), dtype=np.float32) + 0.1 * lean @ centre),
        word=np.array([f"word {w}" for w in range(WORDS)]),
        category=np.array([f"category {w % CATEGORIES}" for w in range(WORDS)]),
    )


def measure(folder: Path, cores: int, rounds: int) -> list[dict[str, Any]]:
    """Measure everything; one line of the table each."""
    table = []
    vectors = folder / "people.npz"
    write_vectors(vectors)
    command = str(Path(sys.executable).with_name("bias-train"))
    whole = [command, "audit", "social", "--vectors", str(vectors), "--output", str(folder / "out"), "--k", *KS]
    alone = [sys.executable, "-c", FIGURES, str(vectors)]
    crossed = ["--attribute", "race x gender"]
    for what, line, targeted in (
        ("figures of race x gender alone", [*alone, "0", *KS], True),
        ("the same with 9,999 relabellings", [*alone, "9999", *KS], True),
        ("audit of race x gender, all outputs", [*whole, *crossed], True),
        ("audit of race, gender, race x gender", whole, False),
    ):
        found = [measure_process(line, cores) for _ in range(rounds)]
        table.append(row(what, found, targeted=targeted))
    return table


if __name__ == "__main__":
    sys.exit(run(__doc__, SIZE, measure))
