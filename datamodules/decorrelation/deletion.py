"""What is left of a clause without an object: which words go with it, and how the others join."""

from __future__ import annotations

import re
from collections.abc import Sequence

from datamodules.decorrelation.grammar import (
    ADJECTIVES,
    ADVERBS,
    CONJUNCTIONS,
    NO_VERBS,
    POSSESSIVES,
    PREPOSITIONS,
    PRONOUNS,
    Clause,
    Kind,
    Segment,
    Token,
    is_plural,
    third_person,
)
from datamodules.objects.mentions import DETERMINERS
from datamodules.taxonomy.prompts import with_article

# What goes with its bearer.
_WORN = frozenset(
    """
    hat hats cap helmet shirt shirts jacket coat dress suit suits pants shorts jeans shoes boots glasses sunglasses
    goggles wetsuit uniform uniforms vest costume scarf collar leash saddle harness beard mustache hair tail ears ear
    eyes eye mouth face tongue nose head legs leg feet foot arms arm hand hands paw paws fur horns horn trunk wings wing
    beak neck mane tusks hood wheels advertisement advertisements lights headlights doors door windows number letters
    writing lid handle stem leaves clothes clothing gear attire outfit top sweater gloves skirt bikini trunks back belly
    teeth bow ribbon sign logo
    """.split()  # noqa: SIM905 - thirty lines otherwise
)
# What a caption cannot do with alone: neither seen nor a thing.
_ABSTRACT = frozenset(
    """
    fun motion nap picture photo photograph image view action air way time day night front back side sides middle top
    bottom game games trick tricks ride walk look background foreground distance row rows line lines circle
    bit lot edge end corner center it them him others other another one ones each direction turn break rest jump flight
    pose posing attention display use mid midair area part piece group bunch pair close up black white color colors
    meal lunch dinner breakfast event competition race match swim jumps activity self home
    """.split()  # noqa: SIM905
)
_LEASHES = frozenset({"leash", "collar", "string", "rope", "chain"})
_LOOKING = frozenset(
    """
    looking looks look watching watches watch facing faces staring stares stare photographing pointing points seeing
    """.split()  # noqa: SIM905
)
# What several subjects do together: said of the last one, it holds of the others.
_POSTURES = frozenset(
    """
    sitting standing laying lying sleeping resting curled parked playing walking running looking grazing relaxing sit
    stand lay lie sleep rest play walk run look graze relax is are posing swimming together lined
    """.split()  # noqa: SIM905
)
# Verbs that say something without what stands behind their preposition.
_INTRANSITIVE = frozenset(
    """
    sitting sits sit standing stands stand laying lays lying lies sleeping sleeps sleep waiting waits wait talking talks
    talk eating eats eat drinking drinks drink typing types playing plays play walking walks walk running runs run
    jumping jumps jump swimming swims resting rests working works reading reads smiling smiles posing poses stopped
    parked grazing grazes kneeling kneels crouching napping naps relaxing curled seated
    """.split()  # noqa: SIM905
)
# Behind these, "and" joins two objects: "eating pizza and salad".
_SHARED = frozenset(
    """
    with of including containing eating eats holding holds carrying carries wearing wears has have having cutting
    serving displaying showing shows selling contains between featuring
    """.split()  # noqa: SIM905
)
# A preposition of motion that has lost its verb.
_AT_REST = {"into": "in", "onto": "on", "toward": "by", "towards": "by", "through": "in"}
_PREDICATES = (Kind.FINITE, Kind.PARTICIPLE)


class Deletion:
    """What is left of one clause.

    Args:
        clause: the clause.
        gone: numbers of tokens that mention what goes.
        named: numbers of tokens that mention something else.

    Attributes:
        lost_subject: whether :meth:`text` found that the clause's subject goes.
        names: whether the clause mentions something else.
    """

    def __init__(self, clause: Clause, gone: set[int], named: set[int]) -> None:
        self.words, self.segments = clause.words, clause.segments
        self.gone, self.named = gone, named
        self.removed = [bool(gone.intersection(segment.phrase)) for segment in self.segments]
        self.lost_subject = False
        self.names = any(named.intersection((*segment.link, *segment.phrase)) for segment in clause.segments)
        self.in_link = any(gone.intersection(segment.link) for segment in self.segments)

    def text(self) -> str:
        """The words that are left, "" for none."""
        if self.in_link:
            return ""
        if not any(self.removed):
            everything = [at for segment in self.segments for at in (*segment.link, *segment.phrase)]
            return "" if self.gone and self._leans_on_gone(everything) else self._raw(everything)
        groups = self._groups()
        if self.segments[0].kind is Kind.START and all(self.removed[at] for at in groups[0]):
            self.lost_subject = True
            return self._without_subject(groups)
        return self._with_subject(groups)

    def _leans_on_gone(self, numbers: Sequence[int]) -> bool:
        """Whether a clause speaks of what went by a pronoun alone: "while it sleeps"."""
        return bool(numbers) and self.words[numbers[0]].low in PRONOUNS

    def _raw(self, numbers: Sequence[int]) -> str:
        text = ""
        for n, at in enumerate(numbers):
            joined = n > 0 and numbers[n - 1] == at - 1
            text += (self.words[at].gap if joined else " " if n else "") + self.words[at].raw
        return text.strip()

    def _groups(self) -> list[list[int]]:
        """Segments that a conjunction joins to one before: [[0, 1], [2]] for "a dog and a cat on a bed"."""
        found: list[list[int]] = []
        for at, segment in enumerate(self.segments):
            if segment.kind is Kind.CONJUNCTION and found and segment.phrase and self.segments[found[-1][-1]].phrase:
                found[-1].append(at)
            else:
                found.append([at])
        return found

    # The subject stays -----------------------------------------------------------------------------------------------

    def _with_subject(self, groups: list[list[int]]) -> str:
        parts: list[str] = []
        saved: list[str] = []
        dropping = False  # what hangs on a phrase that went
        after_removed = ""
        singular = partly_one = False
        partly = self.removed[groups[0][-1]]  # the last of the subjects went, and others stay
        for number, group in enumerate(groups):
            lead = self.segments[group[0]]
            kept = [at for at in group if not self.removed[at]]
            if lead.kind is Kind.FINITE or (lead.kind is Kind.PARTICIPLE and self._is_joined(lead)):
                dropping = False
            if partly and number == 1 and lead.kind in (Kind.PARTICIPLE, Kind.FINITE) and not self._is_posture(lead):
                dropping = True  # "a train and a man riding a bicycle"
            if dropping or self._is_lost(lead, after_removed):
                dropping = dropping or lead.kind in (Kind.PARTICIPLE, Kind.RELATIVE)
                if any(self.removed[at] for at in group) or lead.kind is not Kind.PREPOSITION:
                    after_removed = after_removed or "dropped"
                # Other objects stay in the picture, whatever they had to do with this one.
                saved += [self._bare(self.segments[at].phrase) for at in kept if self._is_named(at)]
                continue
            if not kept:
                after_removed = self._words_of(lead.link) or "removed"
                parts += filter(None, [self._rest_of_verb(lead)])
                continue
            if lead.kind is Kind.FINITE:
                parts, saved = [_listed([" ".join(parts), *saved], "and")], []
            link = self._raw(lead.link)
            if after_removed:
                link = _AT_REST.get(link, link)
            if self.segments[group[0] - 1 if number else 0].kind in _PREDICATES and lead.kind in _PREDICATES:
                link = self._raw(_without_conjunction(self.words, lead.link)) if after_removed else link
            after_removed = ""
            if group[0] not in kept and number > 0 and not self._shares(lead):
                link = "and"
            if singular and lead.kind is Kind.FINITE:
                link = self._agreeing(lead)
            partly_one = partly_one or (number == 0 and len(kept) == 1 < len(group))
            singular = number == 0 and len(kept) == 1 < len(group) and not self._is_plural(kept[0])
            phrases = self._phrases(group, kept)
            if number > 0 and partly_one:
                link = re.sub(r"\btogether\b ?", "", link).strip()
            parts.append(f"{link} {phrases}".strip())
            if group[-1] not in kept and number > 0:
                after_removed = "removed"
        return _listed([" ".join(parts), *saved], "and")

    def _is_named(self, at: int) -> bool:
        """Whether a segment's phrase is another object of the vocabulary."""
        return bool(self.named.intersection(self.segments[at].phrase))

    def _words_of(self, numbers: Sequence[int]) -> str:
        return " ".join(self.words[at].low for at in numbers)

    def _is_joined(self, segment: Segment) -> bool:
        """Whether "and" makes it a second predicate: "wearing a hat and holding a bat"."""
        return bool(segment.link) and self.words[segment.link[0]].low in CONJUNCTIONS

    def _rest_of_verb(self, segment: Segment) -> str:
        """What is left of "sitting on" without a chair: "sitting"."""
        low = [self.words[at].low for at in segment.link]
        verb = next((n for n, word in enumerate(low) if word in _INTRANSITIVE), None)
        if verb is None or segment.kind is Kind.RELATIVE or verb == len(low) - 1:
            return ""
        places = {"next", "front", "top", "close", "side", "back", "middle", "the", "left", "right"}
        return self._raw(segment.link[: verb + 1]) if set(low[verb + 1 :]) <= PREPOSITIONS | places else ""

    def _is_posture(self, segment: Segment) -> bool:
        return any(self.words[at].low in _POSTURES for at in segment.link)

    def _is_lost(self, segment: Segment, after: str) -> bool:
        """Whether a segment hangs on a phrase that went right before it."""
        low = [self.words[at].low for at in segment.phrase]
        if not after:
            return (
                bool(low)
                and low[0] in ("it", "them")
                and segment.kind is Kind.PREPOSITION
                and self._went_before(segment)
            )
        if segment.kind in (Kind.PARTICIPLE, Kind.RELATIVE):
            return not self._is_joined(segment)
        if segment.kind is not Kind.PREPOSITION:
            return False
        link = self._words_of(segment.link)
        if link == "with" and not self.named.intersection(segment.phrase):
            return True  # "aboard a boat with wheels"
        looked = bool(_LOOKING.intersection(after.split())) or after == "dropped"
        owned = bool(low) and low[0] in POSSESSIVES and low[-1] in _WORN
        return looked or owned or link in ("of", "to") or not low or low[-1] in _LEASHES | PRONOUNS

    def _went_before(self, segment: Segment) -> bool:
        return any(at < segment.phrase[0] for at in self.gone)

    def _shares(self, segment: Segment) -> bool:
        return bool(segment.link) and self.words[segment.link[-1]].low in _SHARED

    def _agreeing(self, segment: Segment) -> str:
        words = [self.words[at].raw for at in segment.link]
        for n, word in enumerate(words):
            if third_person(word) != word:
                words[n] = third_person(word)
                break
            if word.endswith("ing"):
                break
        return " ".join(words)

    def _is_plural(self, at: int) -> bool:
        phrase = self.segments[at].phrase
        return is_plural(self.words[phrase[-1]].low)

    def _phrases(self, group: Sequence[int], kept: Sequence[int]) -> str:
        if len(kept) == len(group):
            rest = [at for n in group[1:] for at in (*self.segments[n].link, *self.segments[n].phrase)]
            return self._raw([*self.segments[group[0]].phrase, *rest])
        texts = [self._raw(self.segments[at].phrase) for at in kept]
        first = self.segments[kept[0]].phrase
        lead = self.segments[group[0]].phrase
        if kept[0] != group[0] and lead and first:
            had = self.words[lead[0]].low in DETERMINERS | POSSESSIVES
            bare = self.words[first[0]].low not in DETERMINERS | POSSESSIVES
            if had and bare and not self._is_plural(kept[0]):
                texts[0] = with_article(texts[0])
        conjunctions = [
            self.words[at].raw
            for n in group
            for at in self.segments[n].link
            if self.segments[n].kind is Kind.CONJUNCTION and self.words[at].low in CONJUNCTIONS
        ]
        return _listed(texts, conjunctions[-1] if conjunctions else "and")

    # The subject goes ------------------------------------------------------------------------------------------------

    def _without_subject(self, groups: list[list[int]]) -> str:
        """The things beside the subject, each with its own surroundings, in one list."""
        heads: list[str] = []
        follows = False  # whether the group before was kept, so that a preposition may hang on it
        for group in groups[1:]:
            lead = self.segments[group[0]]
            kept = [at for at in group if not self.removed[at]]
            kept = [at for at in kept if not self._goes_along(self.segments[at], lead)]
            if not kept:
                follows = False
                continue
            phrases = _listed([self._bare(self.segments[at].phrase) for at in kept], "and")
            if follows and lead.kind is Kind.PREPOSITION and kept[0] == group[0]:
                heads[-1] += f" {self._raw(lead.link)} {phrases}"
                continue
            if not any(self._stands_alone(self.segments[at], lead) for at in kept):
                follows = False
                continue
            heads.append(phrases)
            follows = True
        return _listed(heads, "and")

    def _goes_along(self, segment: Segment, lead: Segment) -> bool:
        """Whether a thing is a part of the subject, worn by it, or a word for it."""
        low = [self.words[at].low for at in segment.phrase]
        if not low or low[0] in PRONOUNS or low[-1] in PRONOUNS:
            return True
        if segment is lead and lead is self.segments[1] and self._words_of(lead.link) == "of":
            return True  # "a bottle of wine"
        if self.named.intersection(segment.phrase):
            return False
        link = {self.words[at].low for at in lead.link}
        worn = low[-1] in _WORN and bool(link & {"with", "in", "has", "have", "having", "of"})
        return bool(low[0] in POSSESSIVES or link & {"wearing", "wears", "dressed"} or worn)

    def _stands_alone(self, segment: Segment, lead: Segment) -> bool:
        """Whether a phrase names a thing that is seen, and is no predicate ("is very shiny")."""
        low = [self.words[at].low for at in segment.phrase]
        if self.named.intersection(segment.phrase):
            return True
        tells = lead.kind is Kind.FINITE and self.words[lead.link[-1]].low not in PREPOSITIONS
        bare = low[0] not in DETERMINERS and not is_plural(low[-1])
        return is_noun(low[-1]) and not (tells and bare)

    def _bare(self, phrase: Sequence[int]) -> str:
        if self.words[phrase[0]].low in POSSESSIVES and len(phrase) > 1:
            rest = self._raw(phrase[1:])
            return rest if is_plural(self.words[phrase[-1]].low) else with_article(rest)
        return self._raw(phrase)


def is_noun(word: str) -> bool:
    """Whether a word may name a thing that is seen: it is in no closed list, and does not look like a verb."""
    closed = PREPOSITIONS | CONJUNCTIONS | DETERMINERS | PRONOUNS | POSSESSIVES | ADJECTIVES | ADVERBS | _ABSTRACT
    verbal = word.endswith(("ing", "ed", "ly")) and word not in NO_VERBS and len(word) > 4
    return word not in closed and not verbal and len(word) > 1


def _without_conjunction(words: Sequence[Token], link: Sequence[int]) -> Sequence[int]:
    return link[1:] if link and words[link[0]].low in CONJUNCTIONS else link


def _listed(texts: Sequence[str], conjunction: str) -> str:
    if len(texts) < 2:
        return "".join(texts)
    return f"{', '.join(texts[:-1])} {conjunction} {texts[-1]}"
