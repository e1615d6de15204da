"""``bias-train audit social``: whom neutral queries retrieve, with intervals, tests and a random retriever's floor."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_train.cli.inputs import add_retriever, device_of, for_run, positive, retriever_of, subject_of
from bias_train.cli.terminal import wide_console
from bias_train.errors import RunError

if TYPE_CHECKING:
    from bias_train.audit.outcome import Guardrail
    from bias_train.audit.social.options import SocialOptions
    from bias_train.audit.social.outcome import SocialOutcome
    from bias_train.audit.social.run import Corpus, Subject
    from bias_train.embeddings import Embeddings
    from bias_train.people.vectors import GroupPrompts, People
    from datamodules.taxonomy import Taxonomy
    from models.retriever import Retriever

FROM_FILE = "file"  # the wording of words that came as vectors
RETENTION_WORDS = 40  # words that are asked for with every group's name


def add_social(commands: Any) -> None:
    """Add the subcommand to the parsers of ``bias-train audit``."""
    social = commands.add_parser(
        "social",
        help="whom do neutral queries about people retrieve?",
        description="Whom do neutral queries such as “A photo of a smart person.” retrieve from pictures of people "
        "whose groups are labelled? Writes audit.json, figures.parquet, cells.parquet and report.html into a folder, "
        "and tables on the terminal.",
        epilog='Examples: bias-train audit social --run runs/a --shards shards/faces --attribute gender --attribute '
        '"race x gender"; bias-train audit social --vectors faces.npz --against before.npz',
    )  # fmt: skip
    add_retriever(social)
    people = social.add_argument_group("the people")
    people.add_argument("--shards", nargs="+", metavar="SET", help="shards of labelled people, for a retriever")
    people.add_argument("--vectors", type=Path, metavar="FILE", help="instead: people and words from .npz or .parquet")
    people.add_argument(
        "--attribute", action="append", metavar="NAME",
        help='group by it, such as race or "race x gender"; may be repeated (default: every attribute, and race x '
        "gender)",
    )  # fmt: skip
    people.add_argument("--minimum", type=positive, default=30, metavar="N", help="leave out groups with fewer "
                        "pictures (default: 30)")  # fmt: skip
    people.add_argument("--limit", type=positive, metavar="N", help="at most N pictures, drawn at random")
    people.add_argument("--batch-size", type=positive, default=64, metavar="N")
    people.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes")
    people.add_argument("--device", default="auto", help="cpu, cuda or auto (the default)")
    people.add_argument("--seed", type=int, default=0)
    words = social.add_argument_group("the words")
    words.add_argument(
        "--words", metavar="NAME|FILE",
        help="a list that comes along (words, berg, opposites, stereotypes, occupations, activities), or a CSV of "
        "words of one's own (default: words)",
    )  # fmt: skip
    words.add_argument("--tiers", nargs="+", metavar="TIER", help="of the words (default: core)")
    words.add_argument("--categories", nargs="+", metavar="NAME", help="of the words (default: all)")
    words.add_argument(
        "--prompt-mode", nargs="+", choices=("article", "bare", "literal", "bm"), default=["article"],
        help="wordings; the first leads, further ones show how much hangs on it (default: article)",
    )  # fmt: skip
    words.add_argument("--group-prompts", type=Path, metavar="JSON", help="queries that name groups, of one's own")
    figures = social.add_argument_group("figures and statistics")
    figures.add_argument("--k", type=positive, nargs="+", default=[100, 500, 1000], metavar="K", help="cut-offs; the "
                         "first leads (default: 100 500 1000)")  # fmt: skip
    figures.add_argument(
        "--target", default="pool", metavar="pool|uniform|JSON",
        help='wanted shares: those of all pictures (default), equal ones, or a file {"gender": {"Female": 0.5, ...}}',
    )  # fmt: skip
    figures.add_argument("--resamples", type=int, default=2000, metavar="N", help="bootstrap resamples (default: 2000)")
    figures.add_argument("--level", type=float, default=0.95, help="of the intervals (default: 0.95)")
    figures.add_argument(
        "--permutations", type=int, default=0, metavar="N",
        help="relabellings behind each p (default: 0, a curve with all relabellings' moments)",
    )  # fmt: skip
    figures.add_argument(
        "--adjust", choices=("bh", "holm", "none"), default="bh", help="p-values for all words and groups (default: bh)"
    )
    beside = social.add_argument_group("what stands beside the bias")
    beside.add_argument(
        "--against", type=Path, metavar="PATH",
        help="vectors of the same people and words, or a run folder for the same shards: give this minus that",
    )  # fmt: skip
    beside.add_argument("--pairs", metavar="SET", help="shards of captioned pictures, or their embeddings: utility")
    beside.add_argument("--transfer", metavar="SET", help="shards or vectors of other people, measured in the same way")
    beside.add_argument("--corpus", nargs="+", metavar="SET", help="shards whose captions may hold the same ties")
    beside.add_argument("--group-terms", type=Path, metavar="JSON", help="words that name groups in captions (default: "
                        "ours, for race and gender)")  # fmt: skip
    output = social.add_argument_group("output")
    output.add_argument("--output", type=Path, metavar="DIR", help="default: audits/<name of what is audited>-social")
    output.add_argument("--json", metavar="-", choices=("-",), help="print the JSON and nothing else")
    output.add_argument("--title", help="heading of the report")
    output.add_argument(
        "--thumbnails", type=int, default=0, metavar="N",
        help="put the first N pictures of some queries into the report: faces of people (default: 0)",
    )  # fmt: skip
    social.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code.

    Raises:
        RunError: for options that contradict each other or name nothing, and for vectors that cannot be audited.
        DataError: for shards or words that cannot be read.
        ModelError: for a retriever that cannot be loaded.
    """
    from bias_train.audit.social.outcome import write_social
    from bias_train.audit.social.run import audit_social
    from bias_train.reports.social_audit import write_social_report

    _check(options)
    chosen = social_options(options)
    taxonomy = None if options.vectors else taxonomy_of(options)
    corpus = _corpus(options, taxonomy)
    subject, skipped = _subject(options, taxonomy, chosen)
    name = subject_of(options, options.vectors)
    outcome = audit_social(
        subject,
        chosen,
        against=_against(options, taxonomy, chosen),
        transfer=_transfer(options),
        corpus=corpus,
        title=options.title or name,
        inputs=_inputs(options),
        about_words=about_words_of(options, taxonomy),
    )
    outcome = replace(outcome, warnings=(*outcome.warnings, *skipped))
    folder = options.output or Path("audits") / f"{name}-social"
    write_social(outcome, folder)
    pictures = _thumbnails(options, subject, outcome) if options.thumbnails else {}
    write_social_report(outcome, folder / "report.html", pictures)
    if options.json:
        print(json.dumps(outcome.document(), indent=1, allow_nan=False))
        return 0
    _print(outcome, folder)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Find out what is wrong before minutes of embedding."""
    if options.vectors is not None and options.shards:
        raise RunError("--vectors and --shards exclude each other: vectors are read, or made from pictures")
    if options.vectors is None and not options.shards:
        raise RunError("name whom to search: --shards SET with a retriever (--run DIR, --model NAME), or --vectors")
    if options.vectors is not None:
        given = [name for name in ("words", "tiers", "categories", "group_prompts") if getattr(options, name)]
        if given:
            raise RunError(
                f"--{given[0].replace('_', '-')} needs --shards and a retriever: --vectors has its own words"
            )
    if options.thumbnails and not options.shards:
        raise RunError("--thumbnails needs --shards: vectors have no pictures")
    if options.thumbnails < 0:
        raise RunError(f"--thumbnails is {options.thumbnails}; give 0 or more")
    if options.against is not None and (options.against / "config.yaml").is_file() and not options.shards:
        raise RunError(f"--against {options.against}: is a run folder, which needs --shards; give its vectors instead")


def social_options(options: argparse.Namespace) -> SocialOptions:
    """The audit's choices.

    Raises:
        RunError: naming the choice that cannot be.
    """
    from bias_train.audit.social.options import SocialOptions
    from bias_train.stats import Bootstrap

    try:
        bootstrap = Bootstrap(options.resamples, options.level, "percentile", options.seed)
    except ValueError as error:
        raise RunError(f"{error}") from error
    return SocialOptions(
        attributes=tuple(options.attribute) if options.attribute else None,
        minimum=options.minimum,
        ks=tuple(options.k),
        target=options.target if options.target in ("pool", "uniform") else read_target(Path(options.target)),
        bootstrap=bootstrap,
        permutations=options.permutations,
        adjust=options.adjust,
        seed=options.seed,
    )


def read_target(path: Path) -> dict[str, dict[str, float]]:
    """Read wanted shares by attribute and group.

    Raises:
        RunError: naming the file, for one that cannot be read or has another form.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(attribute): {str(group): float(share) for group, share in shares.items()}
            for attribute, shares in found.items()
        }
    except FileNotFoundError as error:
        raise RunError(f"--target {path}: give pool, uniform, or a JSON file that exists") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f'--target {path}: must be JSON such as {{"gender": {{"Female": 0.5, "Male": 0.5}}}} ({error})'
        ) from error


def taxonomy_of(options: argparse.Namespace) -> Taxonomy:
    """The words that ``--words``, ``--tiers`` and ``--categories`` choose."""
    from datamodules.taxonomy import PROMPT_SETS, load_taxonomy, prompt_set

    if options.words in PROMPT_SETS and not (options.tiers or options.categories):
        return prompt_set(options.words)
    if options.words in PROMPT_SETS and options.words != "words":
        raise RunError(f"--words {options.words}: --tiers and --categories choose among words, or a file's")
    own = None if options.words in (None, "words") else options.words
    # Whoever brings words of one's own wants all of them.
    return load_taxonomy(own, tiers=options.tiers or (None if own else ("core",)), categories=options.categories)


def about_words_of(options: argparse.Namespace, taxonomy: Taxonomy | None) -> dict[str, Any]:
    """Where the words come from, for the record."""
    if taxonomy is None:
        return {"file": str(options.vectors)}
    return {
        "file": taxonomy.name,
        "version": taxonomy.version,
        "sha256": taxonomy.digest,
        "tiers": sorted({entry.tier for entry in taxonomy.entries}),
    }


def _subject(
    options: argparse.Namespace, taxonomy: Taxonomy | None, chosen: SocialOptions
) -> tuple[Subject, list[Guardrail]]:
    """The audited vectors, and what could not be asked."""
    from bias_train.audit.social.run import Subject

    if taxonomy is None:
        return _read_subject(options.vectors, options), []
    from bias_train.people.embed import embed_people, embed_words
    from datamodules.taxonomy import word_prompts

    retriever, device = retriever_of(options), device_of(options)
    people = embed_people(
        retriever,
        options.shards,
        limit=options.limit,
        batch_size=options.batch_size,
        workers=options.workers,
        device=device,
        seed=options.seed,
    )
    words = {
        mode: embed_words(retriever, word_prompts(taxonomy.entries, mode), device=device)
        for mode in dict.fromkeys(options.prompt_mode)
    }
    prompts, skipped = _group_prompts(retriever, people, taxonomy, options, chosen)
    return Subject(people, words, prompts, pairs_of(options, retriever)), skipped


def _read_subject(path: Path, options: argparse.Namespace) -> Subject:
    from bias_train.audit.social.run import Subject
    from bias_train.people.vectors import load_people

    people, words = load_people(path)
    if words is None:
        raise RunError(f"{path}: has no words to ask with; add arrays 'text' and 'word'")
    pairs = pairs_of(options, None) if path == options.vectors else None
    return Subject(people, {FROM_FILE: words}, (), pairs)


def _group_prompts(
    retriever: Retriever, people: People, taxonomy: Taxonomy, options: argparse.Namespace, chosen: SocialOptions
) -> tuple[list[GroupPrompts], list[Guardrail]]:
    """Prompts that name each attribute's groups, alone and with words; attributes that nobody can name are told."""
    import numpy as np

    from bias_train.audit.outcome import Guardrail
    from bias_train.audit.social.measure import attributes_of
    from bias_train.people.embed import embed_group_prompts
    from datamodules.errors import DataError
    from datamodules.taxonomy import load_group_prompts

    own = None if options.group_prompts is None else load_group_prompts(options.group_prompts)
    spread = np.linspace(0, len(taxonomy.entries) - 1, min(RETENTION_WORDS, len(taxonomy.entries)))
    entries = [taxonomy.entries[row] for row in sorted({int(place) for place in spread.round()})]
    found, skipped = [], []
    for attribute in attributes_of(people, chosen):
        labels = people.grouping(attribute, chosen.minimum).labels
        device = device_of(options)
        try:
            if own is not None and attribute in own:
                found.append(embed_group_prompts(retriever, attribute, labels, own=own, device=device))
            else:
                # "A photo of a female doctor.": whoever names the group must still find it.
                found.append(embed_group_prompts(retriever, attribute, labels, words=entries, device=device))
        except DataError as error:
            skipped.append(Guardrail("retention", f"Retention by {attribute} was not measured: {error}."))
    return found, skipped


def pairs_of(options: argparse.Namespace, retriever: Retriever | None) -> Embeddings | None:
    """The ordinary pictures and captions of ``--pairs``, or None."""
    from bias_train.embed import embed_shards
    from bias_train.embeddings import load_embeddings

    if options.pairs is None:
        return None
    if Path(options.pairs).is_file():
        return load_embeddings(options.pairs)
    if retriever is None:
        raise RunError(f"--pairs {options.pairs}: are shards, which need a retriever; give a file of embeddings")
    return embed_shards(
        retriever,
        [options.pairs],
        relevance="pair",
        batch_size=options.batch_size,
        workers=options.workers,
        device=device_of(options),
        seed=options.seed,
    )


def _against(options: argparse.Namespace, taxonomy: Taxonomy | None, chosen: SocialOptions) -> Subject | None:
    path: Path | None = options.against
    if path is None:
        return None
    if not path.exists():
        raise RunError(f"--against {path}: there is no such run folder or file of vectors")
    if not (path / "config.yaml").is_file():
        return _read_subject(path, options)
    return _subject(for_run(options, path), taxonomy, chosen)[0]


def _transfer(options: argparse.Namespace) -> People | None:
    from bias_train.people.embed import embed_people
    from bias_train.people.vectors import load_people

    if options.transfer is None:
        return None
    if Path(options.transfer).is_file():
        return load_people(options.transfer)[0]
    if not options.shards:
        raise RunError(f"--transfer {options.transfer}: are shards, which need a retriever; give a file of vectors")
    return embed_people(
        retriever_of(options),
        [options.transfer],
        limit=options.limit,
        batch_size=options.batch_size,
        workers=options.workers,
        device=device_of(options),
        seed=options.seed,
    )


def _corpus(options: argparse.Namespace, taxonomy: Taxonomy | None) -> Corpus | None:
    if not options.corpus:
        return None
    from bias_train.audit.social.group_terms import load_group_terms
    from bias_train.audit.social.run import Corpus
    from bias_train.audit.social.terms import plural
    from datamodules.catalogue import Catalogue
    from datamodules.index import ShardIndex
    from datamodules.taxonomy import load_taxonomy

    catalogue = Catalogue.of([ShardIndex.load(location) for location in options.corpus])
    captions = (caption for picture in catalogue.anchor.tolist() for caption in catalogue.captions(picture))
    # Words that came as vectors say no part of speech; those that we know, we know.
    entries = (load_taxonomy(tiers=None) if taxonomy is None else taxonomy).entries
    nouns = [entry for entry in entries if entry.part_of_speech == "noun"]
    forms = {(entry.category, entry.word): (entry.word, plural(entry.word)) for entry in nouns}
    return Corpus(captions, load_group_terms(options.group_terms), forms)


def _thumbnails(
    options: argparse.Namespace, subject: Subject, outcome: SocialOutcome
) -> Mapping[tuple[str, str], Sequence[str]]:
    from bias_train.reports.social_pictures import top_pictures

    words = next(iter(subject.words.values()))
    return top_pictures(outcome, subject.people, words, options.shards, options.thumbnails)


def _inputs(options: argparse.Namespace) -> dict[str, Any]:
    names = ("run", "model", "model_config", "hf_model", "pretrained", "shards", "vectors", "limit", "words", "against",
             "pairs", "transfer", "corpus", "group_prompts", "group_terms")  # fmt: skip
    given = {name: getattr(options, name) for name in names}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value}


def _print(outcome: SocialOutcome, folder: Path) -> None:
    from bias_train.audit.social.table import terminal

    console = wide_console()
    console.print(terminal(outcome))
    console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)
