"""A small fragment of English with number agreement.

A sentence is a subject, a predicate and perhaps an adverb: `the dogs near a box chase every cat that this farmer feeds.`
Four things have to agree, often across other nouns in between: the verb with its subject, the verb of a relative clause
with ITS subject, a determiner with its noun, a reflexive pronoun with its antecedent. The kinds of sentences follow the
probes of subject-verb agreement and reflexives of Linzen, Dupoux & Goldberg (TACL 2016,
arXiv 1611.01368) and Marvin & Linzen (EMNLP 2018, arXiv 1808.09031).

The words permit no inference that inference.py does not know. No noun names a kind of another (a hen is a bird). No verb is
symmetric (if A meets B, B meets A), and none implies another. No word that may follow "a" begins with a vowel, so there is
no "an".

Every function that draws takes a `random.Random`; nothing here touches global random state. Structures are frozen
dataclasses and compare by value. Every verb has its own number, so that a wrong sentence can be built.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace


NOUNS = {
    "person": (
        "guest driver farmer doctor teacher sailor baker lawyer monk mason "
        "barber poet judge guard hunter tailor miner pilot clerk nurse"
    ).split(),
    "animal": (
        "dog cat fox horse rabbit tiger lion monkey goat pig cow duck donkey snake frog bear rat turtle hen crab"
    ).split(),
    "object": (
        "book chair table lamp cup box key car boat stone ring clock hat coat door bell drum plate spoon basket"
    ).split(),
}
# Kinds of subject and object -> verbs. No verb is symmetric or implies another of its list.
TRANSITIVE_VERBS = {
    ("person", "person"): "praise visit thank blame hire advise".split(),
    ("person", "animal"): "feed train ride pet groom rescue".split(),
    ("person", "object"): "buy sell repair carry paint clean".split(),
    ("animal", "person"): "follow bite trust scare".split(),
    ("animal", "animal"): "chase lick wake avoid".split(),
    ("animal", "object"): "sniff push break drop".split(),
}
INTRANSITIVE_VERBS = {
    "person": "sing dance work pray argue vote".split(),
    "animal": "sleep run swim jump hide yawn".split(),
    "object": "fall wobble rust rot vanish burn".split(),
}
ADJECTIVES = {
    "person": "kind clever rich poor proud modest brave young".split(),
    "animal": "wild hungry tame furry fierce loud lazy quick".split(),
    "object": "wooden golden narrow cheap heavy soft round dusty".split(),
}
COMMON_ADJECTIVES = "red blue green black white small big pretty".split()
ADVERBS = "often quietly slowly suddenly today here outside again daily alone".split()
PREPOSITIONS = "near behind beside above below with".split()
# "The dog is near the box" means that the box is near the dog, too.
SYMMETRIC_PREPOSITIONS = frozenset({"near", "beside", "with"})

SINGULAR_DETERMINERS = "a this every each".split()
PLURAL_DETERMINERS = "these some many few".split()
COMMON_DETERMINERS = "the no".split()
# Upward monotone in the noun: from "a red dog sleeps" follows "a dog sleeps". The others are not, or not clearly ("many").
WEAKENING_DETERMINERS = frozenset({"the", "a", "this", "these", "some"})

SINGULAR_REFLEXIVES = {"person": ("himself", "herself"), "animal": ("itself",)}
PLURAL_REFLEXIVES = ("themselves",)


def plural_noun(noun: str) -> str:
    """`box` -> `boxes`, `dog` -> `dogs`."""
    return noun + ("es" if noun.endswith(("x", "s", "ch", "sh")) else "s")


def conjugate(verb: str, plural: bool) -> str:
    """Third person present: `carry` -> `carries` (singular) or `carry` (plural); `be` -> `is` or `are`."""
    if verb == "be":
        return "are" if plural else "is"
    if plural:
        return verb
    if verb.endswith("y") and verb[-2] not in "aeou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("x", "s", "ch", "sh")) else "s")


def reflexives(kind: str, plural: bool) -> tuple[str, ...]:
    """The pronouns that refer back to a subject of this kind and number."""
    return PLURAL_REFLEXIVES if plural else SINGULAR_REFLEXIVES[kind]


@dataclass(frozen=True)
class Verb:
    """A verb in the present tense, with its own number."""

    lemma: str
    plural: bool

    @property
    def form(self) -> str:
        return conjugate(self.lemma, self.plural)


@dataclass(frozen=True)
class Predicate:
    """The predicate of a subject: `verb [preposition] [object or complement]`.

    `sleeps` (verb), `chases the cat` (object), `praises himself` (complement: the pronoun), `is red` (complement: an
    adjective), `is near the box` (preposition and object).
    """

    verb: Verb
    object: NounPhrase | None = None
    preposition: str | None = None
    complement: str | None = None

    @property
    def is_reflexive(self) -> bool:
        return self.complement is not None and self.verb.lemma != "be"


@dataclass(frozen=True)
class PlaceModifier:
    """`near the box`."""

    preposition: str
    place: NounPhrase


@dataclass(frozen=True)
class SubjectClause:
    """A relative clause in which the head noun acts: `that chases the cat`."""

    predicate: Predicate


@dataclass(frozen=True)
class ObjectClause:
    """A relative clause in which the head noun is acted upon: `that the teacher paints`."""

    subject: NounPhrase
    verb: Verb


@dataclass(frozen=True)
class NounPhrase:
    """`the red dogs that chase the cat`: kind is `person`, `animal` or `object`."""

    kind: str
    noun: str
    plural: bool
    determiner: str
    adjective: str | None = None
    modifier: PlaceModifier | SubjectClause | ObjectClause | None = None


@dataclass(frozen=True)
class Sentence:
    """A sentence: a subject, a predicate, and perhaps an adverb at the end."""

    subject: NounPhrase
    predicate: Predicate
    adverb: str | None = None


def _all_words() -> tuple[str, ...]:
    nouns = [noun for names in NOUNS.values() for noun in names]
    lemmas = [lemma for verbs in (*TRANSITIVE_VERBS.values(), *INTRANSITIVE_VERBS.values()) for lemma in verbs]
    pronouns = [word for words in SINGULAR_REFLEXIVES.values() for word in words] + [*PLURAL_REFLEXIVES]
    return (
        *nouns,
        *(plural_noun(noun) for noun in nouns),
        *(conjugate(lemma, plural) for lemma in [*lemmas, "be"] for plural in (False, True)),
        *(word for words in ADJECTIVES.values() for word in words),
        *COMMON_ADJECTIVES,
        *ADVERBS,
        *PREPOSITIONS,
        *SINGULAR_DETERMINERS,
        *PLURAL_DETERMINERS,
        *COMMON_DETERMINERS,
        *pronouns,
        "that",
        ".",
    )


# All words of the language, each once, in a fixed order. They follow the special tokens in the tokenizer's vocabulary.
WORDS = _all_words()


# From structures to words


def noun_phrase_words(phrase: NounPhrase) -> list[str]:
    """The words of a noun phrase in order, its modifier included."""
    words = [phrase.determiner]
    if phrase.adjective:
        words.append(phrase.adjective)
    words.append(plural_noun(phrase.noun) if phrase.plural else phrase.noun)
    modifier = phrase.modifier
    if isinstance(modifier, PlaceModifier):
        words += [modifier.preposition, *noun_phrase_words(modifier.place)]
    elif isinstance(modifier, SubjectClause):
        words += ["that", *predicate_words(modifier.predicate)]
    elif isinstance(modifier, ObjectClause):
        words += ["that", *noun_phrase_words(modifier.subject), modifier.verb.form]
    return words


def predicate_words(predicate: Predicate) -> list[str]:
    """The words of a predicate in order: verb, preposition, object."""
    words = [predicate.verb.form]
    if predicate.preposition:
        words.append(predicate.preposition)
    if predicate.object:
        words += noun_phrase_words(predicate.object)
    if predicate.complement:
        words.append(predicate.complement)
    return words


def text(sentence: Sentence) -> str:
    """The sentence as a line of text: lower case, single spaces between words, a full stop at the end."""
    words = noun_phrase_words(sentence.subject) + predicate_words(sentence.predicate)
    if sentence.adverb:
        words.append(sentence.adverb)
    return " ".join(words) + "."


def noun_phrases(sentence: Sentence) -> list[NounPhrase]:
    """All noun phrases of a sentence, from left to right by their nouns. Inner ones follow their host."""
    found = []
    for outer in (sentence.subject, sentence.predicate.object):
        if outer is None:
            continue
        found.append(outer)
        modifier = outer.modifier
        if isinstance(modifier, PlaceModifier):
            found.append(modifier.place)
        elif isinstance(modifier, SubjectClause):
            found.append(modifier.predicate.object)
        elif isinstance(modifier, ObjectClause):
            found.append(modifier.subject)
    return found


# Drawing correct sentences


def draw_noun_phrase(
    rng: random.Random, used_nouns: set[str], kind: str | None = None, modified: bool = True, weakening: bool = False
) -> NounPhrase:
    """Draw a noun phrase and add its nouns to `used_nouns`: no noun comes twice in a sentence.

    Args:
        rng: source of randomness.
        used_nouns: the nouns to avoid; changed in place.
        kind: `person`, `animal` or `object`. None draws one.
        modified: whether the phrase may have a place (one in four) or a relative clause (one in three).
        weakening: whether to use only determiners for which weakening is valid.
    """
    kind = kind or rng.choice(list(NOUNS))
    plural = rng.random() < 0.5
    noun = rng.choice([noun for noun in NOUNS[kind] if noun not in used_nouns])
    used_nouns.add(noun)
    # "the" three times: it gives no hint of the number. If it were rare, agreement would be too easy.
    determiners = (PLURAL_DETERMINERS if plural else SINGULAR_DETERMINERS) + COMMON_DETERMINERS + ["the"] * 3
    if weakening:
        determiners = [word for word in determiners if word in WEAKENING_DETERMINERS]
    adjective = None
    if rng.random() < (0.4 if modified else 0.2):
        adjective = rng.choice(ADJECTIVES[kind] + COMMON_ADJECTIVES)
    phrase = NounPhrase(kind, noun, plural, rng.choice(determiners), adjective)
    if not modified:
        return phrase

    def draw_inner(inner_kind: str | None) -> NounPhrase:
        return draw_noun_phrase(rng, used_nouns, inner_kind, modified=False, weakening=weakening)

    which = rng.random()
    if which < 0.25:
        return replace(phrase, modifier=PlaceModifier(rng.choice(PREPOSITIONS), draw_inner(None)))
    if which < 0.60 and kind == "object":  # things do not act: they are acted upon
        agent_kind = rng.choice(["person", "animal"])
        agent = draw_inner(agent_kind)
        verb = Verb(rng.choice(TRANSITIVE_VERBS[agent_kind, kind]), agent.plural)
        return replace(phrase, modifier=ObjectClause(agent, verb))
    if which < 0.60:
        target_kind = rng.choice(list(NOUNS))
        verb = Verb(rng.choice(TRANSITIVE_VERBS[kind, target_kind]), plural)
        return replace(phrase, modifier=SubjectClause(Predicate(verb, draw_inner(target_kind))))
    return phrase


def draw_sentence(rng: random.Random, weakening: bool = False) -> Sentence:
    """Draw a correct sentence of 3 to 25 words. For `weakening` see `draw_noun_phrase`."""
    used_nouns: set[str] = set()
    subject = draw_noun_phrase(rng, used_nouns, weakening=weakening)
    kind, plural = subject.kind, subject.plural
    if kind == "object":
        form = rng.choice(["intransitive", "property"])
    else:
        form = rng.choices(["intransitive", "transitive", "reflexive", "property"], [0.25, 0.45, 0.15, 0.15])[0]

    if form == "property":
        adjective = rng.choice([word for word in ADJECTIVES[kind] + COMMON_ADJECTIVES if word != subject.adjective])
        return Sentence(subject, Predicate(Verb("be", plural), complement=adjective))
    if form == "intransitive":
        predicate = Predicate(Verb(rng.choice(INTRANSITIVE_VERBS[kind]), plural))
    elif form == "reflexive":
        pronoun = rng.choice(reflexives(kind, plural))
        predicate = Predicate(Verb(rng.choice(TRANSITIVE_VERBS[kind, kind]), plural), complement=pronoun)
    else:
        target_kind = rng.choice(list(NOUNS))
        verb = Verb(rng.choice(TRANSITIVE_VERBS[kind, target_kind]), plural)
        target = draw_noun_phrase(rng, used_nouns, target_kind, modified=rng.random() < 0.3, weakening=weakening)
        predicate = Predicate(verb, target)
    adverb = rng.choice(ADVERBS) if rng.random() < 0.25 else None
    return Sentence(subject, predicate, adverb)


# Breaking one agreement


def break_verb(rng: random.Random, sentence: Sentence) -> Sentence | None:
    """`the dog near the cats sleep.`: the main verb disagrees with its subject."""
    return replace(sentence, predicate=_with_other_number(sentence.predicate))


def break_reflexive(rng: random.Random, sentence: Sentence) -> Sentence | None:
    """`the dog bites themselves.`; None for a sentence without a reflexive."""
    if not sentence.predicate.is_reflexive:
        return None
    wrong = rng.choice(reflexives(sentence.subject.kind, not sentence.subject.plural))
    return replace(sentence, predicate=replace(sentence.predicate, complement=wrong))


def break_determiner(rng: random.Random, sentence: Sentence) -> Sentence | None:
    """`these red dog sleeps.`; None if the subject's determiner goes with both numbers."""
    subject = sentence.subject
    if subject.determiner in COMMON_DETERMINERS:
        return None
    wrong = rng.choice(SINGULAR_DETERMINERS if subject.plural else PLURAL_DETERMINERS)
    return replace(sentence, subject=replace(subject, determiner=wrong))


def break_clause(rng: random.Random, sentence: Sentence) -> Sentence | None:
    """`the dog that chase the cats sleeps.`; None if the subject has no relative clause."""
    modifier = sentence.subject.modifier
    if isinstance(modifier, SubjectClause):
        wrong: SubjectClause | ObjectClause = SubjectClause(_with_other_number(modifier.predicate))
    elif isinstance(modifier, ObjectClause):
        wrong = replace(modifier, verb=replace(modifier.verb, plural=not modifier.verb.plural))
    else:
        return None
    return replace(sentence, subject=replace(sentence.subject, modifier=wrong))


BREAKS = (break_verb, break_reflexive, break_determiner, break_clause)


def draw_broken_sentence(rng: random.Random) -> Sentence:
    """Draw a sentence with exactly one disagreement. Each kind in `BREAKS` is equally likely."""
    break_agreement = rng.choice(BREAKS)
    while True:
        broken = break_agreement(rng, draw_sentence(rng))
        if broken is not None:
            return broken


def _with_other_number(predicate: Predicate) -> Predicate:
    return replace(predicate, verb=replace(predicate.verb, plural=not predicate.verb.plural))
