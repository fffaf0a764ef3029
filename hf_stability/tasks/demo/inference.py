"""Facts that follow from a sentence of the small language, and wrong versions of them.

Weakening gives a sentence's `facts`: leave out adjectives, adverbs and clauses, or state one of them as a separate sentence.
That is valid only with the determiners in `grammar.WEAKENING_DETERMINERS`: "every red dog sleeps" does not mean that every
dog sleeps.
"""

from __future__ import annotations

import random
from dataclasses import replace

from .grammar import (
    ADJECTIVES,
    COMMON_ADJECTIVES,
    INTRANSITIVE_VERBS,
    NOUNS,
    SYMMETRIC_PREPOSITIONS,
    TRANSITIVE_VERBS,
    NounPhrase,
    ObjectClause,
    PlaceModifier,
    Predicate,
    Sentence,
    SubjectClause,
    Verb,
    noun_phrases,
)


def bare(phrase: NounPhrase) -> NounPhrase:
    """The determiner and the noun alone."""
    # A task needs hundreds of thousands of these; `replace` takes twice as long.
    return NounPhrase(phrase.kind, phrase.noun, phrase.plural, phrase.determiner)


def facts(sentence: Sentence) -> list[Sentence]:
    """The simple sentences, with bare noun phrases, that a correct sentence states. The main clause comes first."""
    predicate = sentence.predicate
    stated = [Sentence(bare(sentence.subject), with_object(predicate, predicate.object and bare(predicate.object)))]
    for phrase in noun_phrases(sentence):
        host, be = bare(phrase), Verb("be", phrase.plural)
        if phrase.adjective:
            stated.append(Sentence(host, Predicate(be, complement=phrase.adjective)))
        modifier = phrase.modifier
        if isinstance(modifier, PlaceModifier):
            stated.append(Sentence(host, Predicate(be, bare(modifier.place), modifier.preposition)))
        elif isinstance(modifier, SubjectClause):
            target = bare(modifier.predicate.object)
            stated.append(Sentence(host, with_object(modifier.predicate, target)))
        elif isinstance(modifier, ObjectClause):
            stated.append(Sentence(bare(modifier.subject), Predicate(modifier.verb, host)))
    return stated


def follows(premise: Sentence, hypothesis: Sentence) -> bool:
    """Whether a simple `hypothesis` follows from `premise`. The premise must use only `WEAKENING_DETERMINERS`."""
    return _is_stated(hypothesis, facts(premise))


def _is_stated(hypothesis: Sentence, stated: list[Sentence]) -> bool:
    if hypothesis.predicate.preposition in SYMMETRIC_PREPOSITIONS:
        return hypothesis in stated or exchanged(hypothesis) in stated
    return hypothesis in stated


def with_subject(sentence: Sentence, subject: NounPhrase) -> Sentence:
    """The sentence with another subject. The verb agrees with it; a reflexive pronoun stays unchanged."""
    predicate = sentence.predicate
    verb = Verb(predicate.verb.lemma, subject.plural)
    predicate = Predicate(verb, predicate.object, predicate.preposition, predicate.complement)
    return Sentence(subject, predicate, sentence.adverb)


def with_object(predicate: Predicate, target: NounPhrase | None) -> Predicate:
    """The predicate with another object."""
    return Predicate(predicate.verb, target, predicate.preposition, predicate.complement)


def exchanged(sentence: Sentence) -> Sentence:
    """Subject and object change places: `the dog chases these cats.` -> `these cats chase the dog.`"""
    turned = with_subject(sentence, sentence.predicate.object)
    return replace(turned, predicate=with_object(turned.predicate, sentence.subject))


def rearrangements(premise: Sentence, fact: Sentence, stated: list[Sentence] | None = None) -> list[Sentence]:
    """Wrong versions of a fact of `premise`: correct sentences in the premise's words that do not follow from it.

    Roles are exchanged, or another noun phrase of the premise replaces the subject or the object. Kinds are kept (an
    animal never prays), so the hypothesis alone does not reveal the label.

    Args:
        premise: a sentence with `WEAKENING_DETERMINERS` only.
        fact: one of its facts.
        stated: `facts(premise)`, for callers that have them.
    """
    stated = facts(premise) if stated is None else stated
    predicate, subject, target = fact.predicate, fact.subject, fact.predicate.object
    # A place and a colour fit all kinds; everything else fits only the kind of its subject.
    any_kind = predicate.preposition is not None or predicate.complement in COMMON_ADJECTIVES
    used = {subject.noun, target.noun if target else None}
    wrong = []
    if target and (any_kind or target.kind == subject.kind):
        wrong.append(exchanged(fact))
    for phrase in noun_phrases(premise):
        if phrase.noun in used:
            continue
        other = bare(phrase)
        pronoun_fits = not predicate.is_reflexive or other.plural == subject.plural
        if pronoun_fits and (any_kind or other.kind == subject.kind):
            wrong.append(with_subject(fact, other))
        if target and (any_kind or other.kind == target.kind):
            wrong.append(replace(fact, predicate=with_object(predicate, other)))
    return [hypothesis for hypothesis in wrong if not _is_stated(hypothesis, stated)]


def draw_replacement(rng: random.Random, premise: Sentence, fact: Sentence) -> Sentence:
    """A wrong version of a fact of `premise`: one content word is replaced by another of its kind."""
    subject, predicate, target = fact.subject, fact.predicate, fact.predicate.object
    premise_nouns = {phrase.noun for phrase in noun_phrases(premise)}

    def renamed(phrase: NounPhrase) -> NounPhrase:
        return replace(phrase, noun=rng.choice([noun for noun in NOUNS[phrase.kind] if noun not in premise_nouns]))

    wrong = [replace(fact, subject=renamed(subject))]
    if target:
        wrong.append(replace(fact, predicate=replace(predicate, object=renamed(target))))
    if predicate.verb.lemma != "be":
        if target:
            verbs = TRANSITIVE_VERBS[subject.kind, target.kind]
        elif predicate.is_reflexive:
            verbs = TRANSITIVE_VERBS[subject.kind, subject.kind]
        else:
            verbs = INTRANSITIVE_VERBS[subject.kind]
        wrong.append(replace(fact, predicate=replace(predicate, verb=Verb(rng.choice(verbs), subject.plural))))
    elif predicate.complement:
        adjective = rng.choice(ADJECTIVES[subject.kind] + COMMON_ADJECTIVES)
        wrong.append(replace(fact, predicate=replace(predicate, complement=adjective)))
    # The new word may be the old one, or make a sentence that is true too. A new noun never does.
    return rng.choice([hypothesis for hypothesis in wrong if not follows(premise, hypothesis)])
