"""``bias-train shards plan``: what a run saw or will see, without reading a picture."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_train.errors import RunError

# Everything heavy is imported where it is used, as in the other commands.
if TYPE_CHECKING:
    import pyarrow as pa

    from datamodules.plan import MixingPlan

_ROWS_AT_ONCE = 65_536
_LINES_IN_A_PIPE = 40


def add_plan(commands: Any) -> None:
    """Add the command to the parser of ``bias-train shards``."""
    parser = commands.add_parser(
        "plan",
        help="list the samples that a run saw or will see",
        description="List what stands in every slot of a run's batches: keys, sources, views, captions and twins, from "
        "the shards' indexes alone. Options of `bias-train fit`, such as --data.share=0.5, are taken too.",
        epilog="Example: bias-train shards plan --run runs/fit --steps 0:100 --output plan.csv",
        allow_abbrev=False,  # an option of `bias-train fit` must not be taken for the beginning of one of these
    )
    parser.add_argument("--run", dest="folder", type=Path, metavar="FOLDER", help="folder of a run")
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="as for `bias-train fit`, for a run to come"
    )
    parser.add_argument(
        "--steps", default="0:1", metavar="A:B", help="global batches from A up to B, without B (default: %(default)s)"
    )
    parser.add_argument(
        "--world-size", type=int, metavar="N", help="processes that share a batch (default: as the run had, else 1)"
    )
    parser.add_argument("--source", metavar="NAME", help="list anchors of this source alone")
    parser.add_argument("--key", metavar="KEY", help="list the slots that use this sample, or this KEY.VIEW")
    parser.add_argument("--captions", action="store_true", help="add the captions' text")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write .csv, .parquet or .jsonl (default: print the first lines)"
    )
    parser.add_argument("--force", action="store_true", help="go on where this is not the plan that the run recorded")
    parser.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    from bias_train.cli.run_plan import plan_of_run, recorded_world_size

    steps = _steps(options.steps)
    plan = plan_of_run(options.folder, options.config, options.fit_options)
    if options.folder is not None:
        _look_at_record(options.folder, plan, steps, options.force)
    world_size = recorded_world_size(options.folder) if options.world_size is None else options.world_size
    listing = _Listing(plan, steps, world_size, options)
    if options.output is not None:
        from bias_train.table_file import table_file

        with table_file(options.output, listing.schema) as write:
            for table in listing:
                write(table)
    else:
        _print_first(listing)
    _print_summary(listing)
    if options.output is not None:
        print(f"{options.output}: {listing.listed:,} slots")
    return 0


def _steps(text: str) -> range:
    match = re.fullmatch(r"(-?\d+):(-?\d+)", text.strip())
    if match is None:
        raise RunError(f"--steps {text}: write A:B, two whole numbers, such as 0:100")
    start, stop = int(match[1]), int(match[2])
    if start < 0:
        raise RunError(f"--steps {text}: steps count from 0")
    if stop <= start:
        raise RunError(f"--steps {text}: is empty, since B is excluded; give a B above A")
    return range(start, stop)


def _look_at_record(folder: Path, plan: MixingPlan, steps: range, force: bool) -> None:
    from bias_train.cli.run_plan import compare_with_record, plan_changes

    if not (folder / "plan.json").is_file():
        print(f"{folder}: records no plan, so this one cannot be compared with what the run saw", file=sys.stderr)
    differences = compare_with_record(folder, plan)
    if differences and not force:
        raise RunError(
            f"{folder}: the run followed another mixing plan than its configuration now gives ({differences}): restore "
            "what changed, or see the new plan with --force"
        )
    if differences:
        print(f"{folder}: not the plan that the run followed ({differences})", file=sys.stderr)
    changes = [step for step in plan_changes(folder) if step > steps.start]
    if changes:
        print(
            f"{folder}: before step {changes[-1]} the run followed another plan, see plan.before-{changes[-1]}.json",
            file=sys.stderr,
        )


class _Listing:
    """The tables of a range of steps, in pieces that fit in memory; counts what goes by."""

    def __init__(self, plan: MixingPlan, steps: range, world_size: int, options: argparse.Namespace) -> None:
        from datamodules.errors import DataError
        from datamodules.plan_table import Named, plan_table

        self.plan, self.steps, self.world_size, self.captions = plan, steps, world_size, bool(options.captions)
        sources = plan.catalogue.sources
        if options.source is not None and options.source not in sources:
            raise DataError(f"--source {options.source}: no shard of data.train holds it; they hold {list(sources)}")
        self.source = None if options.source is None else sources.index(options.source)
        self.named = None if options.key is None else Named.of(plan.catalogue, options.key)
        self.schema: pa.Schema = plan_table(plan, range(0), world_size, captions=self.captions).schema
        self.slots = self.listed = 0
        self.anchors: Counter[str] = Counter()
        self.twins: Counter[str] = Counter()

    def __iter__(self) -> Iterator[pa.Table]:
        from datamodules.plan_table import planned_slots, slots_table

        catalogue = self.plan.catalogue
        stride = max(_ROWS_AT_ONCE // self.plan.spec.batch_size, 1)
        for start in range(self.steps.start, self.steps.stop, stride):
            slots = planned_slots(self.plan, range(start, min(start + stride, self.steps.stop)))
            self.slots += len(slots)
            for counter, pictures in ((self.anchors, slots.picture), (self.twins, slots.twin[slots.twin >= 0])):
                codes = catalogue.picture_source[pictures]
                counter.update({name: int((codes == code).sum()) for code, name in enumerate(catalogue.sources)})
            if self.source is not None:
                slots = slots.where(catalogue.picture_source[slots.picture] == self.source)
            if self.named is not None:
                slots = slots.where(self.named.marks(slots))
            self.listed += len(slots)
            yield slots_table(self.plan, slots, self.world_size, captions=self.captions)


def _print_first(tables: Iterable[pa.Table]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # A pipe has no size of its own.
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else 160, highlight=False)
    most = max(console.height - 8, 5) if terminal else _LINES_IN_A_PIPE
    rows: list[dict[str, str]] = []
    listed = 0
    for table in tables:
        rows += [_for_people(row) for row in table.slice(0, most - len(rows)).to_pylist()]
        listed += len(table)
    # Columns in which nothing stands, such as twins where none are drawn, only take room.
    names = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
    shown = Table(box=None, pad_edge=False)
    for name in names:
        numbers = all(row[name].isdigit() for row in rows)
        # The text of captions gives way first.
        shown.add_column(name, justify="right" if numbers else "left", no_wrap=name != _TEXT, overflow="ellipsis")
    for row in rows:
        shown.add_row(*(Text(row[name], no_wrap=True, overflow="ellipsis") for name in names))
    if names:
        console.print(shown)
    if listed > len(rows):
        console.print(f"… and {listed - len(rows):,} more slots: --output FILE.csv (or .parquet, .jsonl) gets all")


_TEXT = "text"


def _for_people(row: dict[str, Any]) -> dict[str, str]:
    """A row of the table in fewer and narrower columns."""

    def name(key: str | None, view: str | None) -> str:
        return f"{key}.{view}" if view else key or ""

    return {
        "step": str(row["step"]),
        "position": str(row["position"]),
        "rank": str(row["rank"]),
        "row": str(row["row"]),
        "key": name(row["key"], row["view"]),
        "source": row["source"],
        "twin": name(row["twin_key"], row["twin_view"]),
        "of source": row["twin_source"] or "",
        "caption": str(row["caption"]),
        "of sample": row["caption_key"] if row["caption_key"] != row["key"] else "",
        "shard": "/".join(row["shard"].split("/")[-2:]),
        "epoch": str(row["epoch"]),
        _TEXT: row.get("caption_text") or "",
    }


def _print_summary(listing: _Listing) -> None:
    plan, steps = listing.plan, listing.steps
    print(f"plan {plan.fingerprint}: steps {steps.start} to {steps.stop - 1}, {listing.slots:,} slots")
    for name in plan.catalogue.sources:
        count = listing.anchors[name]
        twins = f", {listing.twins[name]:,} twins" if listing.twins.total() else ""
        print(f"{name}: {count:,} slots, {count / listing.slots:.2%}{twins}")
    if listing.source is not None or listing.named is not None:
        print(f"listed: {listing.listed:,} slots")
