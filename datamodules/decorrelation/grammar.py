"""Cuts a caption into noun phrases and what links them, by closed lists of words: enough grammar to delete by.

A statistical parser would do it better, but those that exist as packages of an index that a lock with hashes can hold
come without their models. Captions of pictures are short and of few patterns, and deleting too much is harmless: what
is left of a true caption stays true.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from datamodules.objects.mentions import DETERMINERS


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PREPOSITIONS = _words(
    """
    of in on at to from by into onto over under up down out off for near beside besides behind through along alongside
    across around between among amongst against toward towards inside outside above below beneath underneath upon with
    without within atop aboard past beyond during after before about like amid via
    """
)
# Phrases that work as one preposition; the longest first.
_LONG_PREPOSITIONS = tuple(
    tuple(phrase.split())
    for phrase in (
        "on the other side of", "on either side of", "on each side of", "on the side of", "to the side of",
        "in the middle of", "in the center of", "in the back of", "on the back of", "on the edge of", "at the end of",
        "in the corner of", "on the top of", "in front of", "on top of", "in back of", "in between", "in the air by",
        "next to", "close to", "out of", "full of", "inside of", "outside of", "off of", "up to", "along with",
        "as well as", "such as", "attached to", "due to",
    )
)  # fmt: skip
CONJUNCTIONS = _words("and or")
_SUBORDINATORS = _words("while as when where because but so although though if until since whilst")
_RELATIVES = _words("that which who whose whom")
PRONOUNS = _words("it them him he she they something themselves itself himself herself each one someone's us you i we")
POSSESSIVES = _words("his her its their")
_BE = _words("is are was were be been being isn aren am")
_AUXILIARIES = _BE | _words("has have had can could will would may might do does did not getting ready there's")
ADVERBS = _words(
    """
    together outdoors indoors very just also too away back there here not while ready asleep alone still quite almost
    nearby home upside sideways apart ahead forward forwards backwards overhead upright both all only really
    """
)
ADJECTIVES = _words(
    """
    red blue green yellow orange black white brown gray grey pink purple tan silver gold golden beige maroon teal blond
    blonde dark light bright colorful big large small little tiny huge giant tall short long old young new wooden metal
    plastic stone brick glass stainless steel empty full open closed cute happy dirty clean wet dry snowy sandy grassy
    sunny cloudy busy crowded fluffy furry striped spotted plain round square fresh ripe hot cold modern antique vintage
    different same other delicious fancy nice pretty beautiful single double multi colored
    """
)
# Names of a quantity: "a herd of cows" is cows.
_COLLECTIVES = _words(
    """
    group groups bunch bunches pair pairs herd herds flock flocks pile piles stack stacks couple row rows slice slices
    piece pieces set sets lot lots number variety assortment crowd pack line lines type types kind kinds sort sorts head
    heads part half collection team litter school swarm array trio plenty dozens hundreds bit rest close-up handful
    """
)
# Words in -ing and -ed that are nouns or adjectives wherever they stand.
NO_VERBS = _words(
    """
    building buildings ceiling railing clothing morning evening string king ring wing thing something nothing wedding
    painting paintings parking dining living spring swing being topping toppings filling icing frosting
    dressing pudding bedding lighting siding flooring landing stuffing red bed shed seed weed sled need speed hundred
    colored covered bearded bed beds feed breed skiing surfing seating clearing opening outing awning earring
    """
)
_PARTICIPLES = _words(
    """
    made seen shown taken built worn laid hung cut set held driven eaten thrown stuck lit left kept bent spread sat put
    caught drawn written strewn tied
    """
)
_VERBS = _words(
    """
    sit stand lie lay look ride play walk run hold eat fly jump throw catch swing hit wear carry drive travel pull push
    graze drink watch sleep rest pose smile ski surf skate snowboard skateboard swim float sail stare face lean hang
    cover fill show contain feature display get take make use talk work cook cut prepare wait cross move go come leave
    return reach serve perform try attempt enjoy feed pet lick chew bite sniff fight gather share bake read write type
    speak sing dance laugh kick dribble pitch slide grind roll turn stop lounge relax nap curl perch peek peer appear
    seem surround overlook approach balance bend kneel crouch squat climb follow chase point put set wade stay include
    consist sell grab point drag tow race cruise practice compete celebrate listen visit learn bring give help keep let
    crawl hide dive soar hover glide spread grow shine sprawl snuggle cuddle huddle snack dine chat hug kiss brush wash
    clean dry comb check examine inspect adjust tie open close start begin pass meet see block shade pile
    """
)
_PAST = _words("sat stood rode lay flew ate held ran took went came threw caught wore drove swam made got has have had")
_EXISTENTIAL = [[first, second] for first in ("there", "here") for second in ("is", "are", "was", "were")]
_PLURALS = _words("people men women children sheep cattle geese mice deer fish oxen police")


class Kind(Enum):
    """How a segment hangs on what stands before it."""

    START = auto()
    PREPOSITION = auto()
    CONJUNCTION = auto()
    PARTICIPLE = auto()
    FINITE = auto()
    RELATIVE = auto()


@dataclass(frozen=True)
class Token:
    """A word, as it stands and in lower case, and what stands between it and the word before."""

    raw: str
    low: str
    gap: str


@dataclass
class Segment:
    """A link and the noun phrase that it leads to.

    Attributes:
        kind: of the link.
        link: numbers of its tokens.
        phrase: numbers of the noun phrase's tokens; empty for a verb without an object.
    """

    kind: Kind
    link: list[int] = field(default_factory=list)
    phrase: list[int] = field(default_factory=list)


def cut(text: str) -> list[Token]:
    """Cut a text into tokens that agree with :func:`datamodules.objects.vocabulary.tokens`."""
    found, end = [], 0
    for match in re.finditer(r"[^\W_]+", text):
        found.append(Token(match[0], match[0].lower(), text[end : match.start()]))
        end = match.end()
    return found


def is_plural(word: str) -> bool:
    """Whether a noun looks plural.

    >>> is_plural("dogs"), is_plural("glass"), is_plural("men")
    (True, False, True)
    """
    return word in _PLURALS or (word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 2)


class Clause:
    """One clause of a caption, cut into segments.

    Args:
        words: all tokens of the caption.
        start: first token of the clause.
        end: the one after its last.
        opening: numbers of the tokens that join it to the clause before ("while").
        nouns: numbers of tokens that are known to be nouns, whatever they look like ("moped").
    """

    def __init__(
        self, words: Sequence[Token], start: int, end: int, opening: list[int], nouns: Collection[int] = ()
    ) -> None:
        self.words, self.opening, self.nouns = words, opening, nouns
        self.segments: list[Segment] = []
        self._link: list[int] = []
        self._kinds: set[Kind] = set()
        at = start
        while at < end:
            at = self._step(at, end)
        if self._link:
            self._open([])

    def _low(self, at: int) -> str:
        return self.words[at].low if 0 <= at < len(self.words) else ""

    @property
    def _in_phrase(self) -> bool:
        """Whether the last token was one of a noun phrase."""
        return bool(self.segments) and not self._link and bool(self.segments[-1].phrase)

    def _open(self, phrase: list[int]) -> None:
        order = (Kind.RELATIVE, Kind.FINITE, Kind.PARTICIPLE, Kind.PREPOSITION)
        kind = next((kind for kind in order if kind in self._kinds), None)
        exists = [self._low(at) for at in self._link[:2]] in _EXISTENTIAL and len(self._link) == 2
        if kind is None or (exists and not self.segments):
            kind = Kind.START if not self.segments else Kind.CONJUNCTION
        self.segments.append(Segment(kind, self._link, phrase))
        self._link, self._kinds = [], set()

    def _step(self, at: int, end: int) -> int:
        for phrase in _LONG_PREPOSITIONS:
            if at + len(phrase) <= end and tuple(self._low(at + n) for n in range(len(phrase))) == phrase:
                self._link += range(at, at + len(phrase))
                self._kinds.add(Kind.PREPOSITION)
                return at + len(phrase)
        kind = self._kind_of(at)
        if kind is not None:
            if "," in self.words[at].gap and self._link and kind is Kind.CONJUNCTION:
                self._open([])
            self._link.append(at)
            if kind is not Kind.START:
                self._kinds.add(kind)
            return at + 1
        if self._in_phrase and not self._parts(at):
            self.segments[-1].phrase.append(at)
        else:
            self._open([at])
        # "a group of people", "a brown and white dog": one phrase.
        phrase_ = self.segments[-1].phrase
        nxt = self._low(at + 1)
        if at + 2 < end and (
            (nxt == "of" and self._low(at) in _COLLECTIVES)
            or (nxt in ("and", "or") and self._is_adjective(at) and self._is_adjective(at + 2))
        ):
            phrase_.append(at + 1)
            if self._low(at + 2) in DETERMINERS:
                phrase_.append(at + 2)
                return at + 3
            return at + 2
        return at + 1

    def _parts(self, at: int) -> bool:
        """Whether a token of a noun phrase begins a new one."""
        low, before = self._low(at), self._low(at - 1)
        if "," in self.words[at].gap:
            return not (self._is_adjective(at - 1) and (self._is_adjective(at) or low not in DETERMINERS))
        return low in DETERMINERS and before not in DETERMINERS and before not in ("of", "and", "all", "both")

    def _is_adjective(self, at: int) -> bool:
        return self._low(at) in ADJECTIVES and at not in self.nouns

    def _kind_of(self, at: int) -> Kind | None:
        """What a token adds to a link; START for an adverb, which adds nothing; None for one of a noun phrase."""
        low, before, after = self._low(at), self._low(at - 1), self._low(at + 1)
        if at in self.nouns:
            return None
        begins = not self._in_phrase  # nothing of a noun phrase stands right before
        if low in _RELATIVES:
            if low == "that" and begins:
                return None  # "on that bench"
            return Kind.RELATIVE
        if low in CONJUNCTIONS:
            return Kind.CONJUNCTION
        if low in PREPOSITIONS:
            return Kind.PREPOSITION
        if low in _AUXILIARIES:
            return Kind.FINITE
        linked = bool(self._link) and self._link[-1] == at - 1  # "that" of "a chair that faces a window"
        told = not linked and (before in DETERMINERS or before in POSSESSIVES)
        bound = told or (self._is_adjective(at - 1) and not begins)
        if low in _SUBORDINATORS or low in ADVERBS or (low.endswith("ly") and low not in ("family", "fly")):
            return None if bound and not begins else Kind.START  # "a very cute girl"
        if low in NO_VERBS:
            return None
        leads = bool(after) and after not in PREPOSITIONS | DETERMINERS | CONJUNCTIONS | POSSESSIVES | PRONOUNS
        if low.endswith("ing") and len(low) > 4:
            return None if (bound and leads) or (told and not begins) else Kind.PARTICIPLE
        if low.endswith("ed") and len(low) > 3:
            return None if leads and (bound or begins) and not self._after_be(at) else Kind.PARTICIPLE
        if begins and self._link and self._low(self._link[-1]) == "to" and low in _VERBS:
            return Kind.PARTICIPLE
        if low in _PARTICIPLES and not bound and (self._in_phrase or self._after_be(at)):
            return Kind.PARTICIPLE
        subject = self._in_phrase or bool(self._kinds & {Kind.RELATIVE}) or self._follows_verb()
        if subject and not bound:
            if low in _PAST or _third_person(low):
                return Kind.FINITE
            if low in _VERBS and (is_plural(before) or self._coordinated() or Kind.RELATIVE in self._kinds):
                return Kind.FINITE
        return None

    def _after_be(self, at: int) -> bool:
        return bool(self._link) and self._link[-1] == at - 1 and self._low(at - 1) in _BE

    def _follows_verb(self) -> bool:
        """Whether the link is a bare conjunction behind a verb: "sits and eats"."""
        if not self._link or self._low(self._link[-1]) not in CONJUNCTIONS:
            return False
        return Kind.FINITE in self._kinds or any(segment.kind is Kind.FINITE for segment in self.segments)

    def _coordinated(self) -> bool:
        return bool(self.segments) and self.segments[-1].kind is Kind.CONJUNCTION


def _third_person(word: str) -> bool:
    stems = {word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ies") + "y"} - {word}
    return word.endswith("s") and bool(stems & _VERBS)


def third_person(verb: str) -> str:
    """Put a finite verb into the singular.

    >>> third_person("are"), third_person("watch"), third_person("sits")
    ('is', 'watches', 'sits')
    """
    irregular = {"are": "is", "were": "was", "have": "has", "do": "does", "go": "goes"}
    if verb in irregular:
        return irregular[verb]
    if verb not in _VERBS:
        return verb
    if verb.endswith(("ch", "sh", "ss", "x")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


def clauses(words: Sequence[Token], nouns: Collection[int] = ()) -> list[Clause]:
    """Cut a caption into clauses: at "while" and the like, at full stops, and at "and" before a clause of its own.

    Args:
        words: all of its tokens.
        nouns: see :class:`Clause`.
    """
    found: list[Clause] = []
    start, opening = 0, list[int]()
    for at in range(1, len(words) + 1):
        ends = at == len(words) or any(sign in words[at].gap for sign in ".;:!?")
        joins = not ends and words[at].low in _SUBORDINATORS and at > start and not _is_preposition(words, at)
        if ends or joins:
            found += _split(Clause(words, start, at, opening, nouns), start, at)
            start, opening = (at + 1, [at]) if joins else (at, [])
    return found


def _is_preposition(words: Sequence[Token], at: int) -> bool:
    """Whether it is no clause that follows: "while eating a pizza", "as well as"."""
    after = words[at + 1].low if at + 1 < len(words) else ""
    return after.endswith("ing") or (words[at].low == "as" and after == "well") or words[at - 1].low == "well"


def _split(clause: Clause, start: int, end: int) -> list[Clause]:
    """Part "a man holds a frisbee and a dog jumps" before the "and": a finite verb has its subject behind another."""
    words, segments, nouns = clause.words, clause.segments, clause.nouns
    for at in range(1, len(segments) - 1):
        is_new = segments[at].kind is Kind.CONJUNCTION and segments[at + 1].kind is Kind.FINITE
        if is_new and any(segment.kind is Kind.FINITE for segment in segments[:at]) and segments[at].link:
            first = segments[at].link[0]
            rest = Clause(words, first + 1, end, [first], nouns)
            return [Clause(words, start, first, clause.opening, nouns), *_split(rest, first + 1, end)]
    return [clause]
