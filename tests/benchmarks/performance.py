"""Every benchmark's table, put together for the README.

    python tests/benchmarks/performance.py FOLDER [README.md]

FOLDER holds what the benchmarks wrote with ``--markdown FOLDER/<name>.md`` (``make bench`` does). Prints the section
or puts it in between the two marks in the README. A benchmark that has written nothing is left out, and said to be.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

TITLES = {
    "end_to_end": ("Training, whole", "Samples/s of `bias-train fit` beside open_clip's own trainer."),
    "step": ("One step", "Without loader and trainer; what twins cost; memory against the batch."),
    "loss": ("Contrastive losses a few rows at a time", "Beside the whole matrix of scores."),
    "stream": ("The stream", "Beside the pipelines that one would use instead."),
    "index": ("The index", "A million samples in a thousand shards."),
    "search": ("Exact search", "Beside faiss's flat index."),
    "sweep": ("Head-only sweep", "Trained from features that were computed once."),
    "audit": ("Audit of source bias", "In a process of its own, its start included."),
    "social": ("Audit of social bias", "In a process of its own, its start included."),
    "objects": ("Objects taken out", "Mining, captions, inpainting."),
    "lettering": ("Words written on pictures", "On one core, at 224 px."),
    "curation": ("Text curated", "On one core, where it is known what is written."),
}
BEGIN, END = "<!-- begin: made by `make bench` -->", "<!-- end: made by `make bench` -->"


def section(folder: Path) -> str:
    """Put the tables together."""
    parts, missing = [], []
    for name, (title, about) in TITLES.items():
        file = folder / f"{name}.md"
        if file.is_file():
            parts.append(f"### {title}\n\n{about} `python tests/benchmarks/{name}.py`\n\n{file.read_text().strip()}")
        else:
            missing.append(name)
    if missing:
        parts.append(f"Not measured in this run: {', '.join(missing)}.")
    return "\n\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("readme", type=Path, nargs="?")
    options = parser.parse_args()
    text = section(options.folder)
    if options.readme is None:
        print(text)
        return 0
    readme = options.readme.read_text()
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        sys.exit(f"{options.readme} lacks the marks {BEGIN} and {END}")
    before, _, rest = readme.partition(BEGIN)
    options.readme.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
