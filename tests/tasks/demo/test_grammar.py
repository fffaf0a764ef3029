from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_stability.tasks.demo import grammar, inference
from hf_stability.tasks.demo.grammar import (
    BREAKS,
    WORDS,
    NounPhrase,
    ObjectClause,
    PlaceModifier,
    Predicate,
    Sentence,
    SubjectClause,
    Verb,
)


seeds = st.integers(0, 2**32)

DOG = NounPhrase("animal", "dog", plural=False, determiner="the")
CATS = NounPhrase("animal", "cat", plural=True, determiner="these")
BOX = NounPhrase("object", "box", plural=False, determiner="a")
NURSE = NounPhrase("person", "nurse", plural=False, determiner="this")


def words_of(line: str) -> list[str]:
    return re.findall(r"\w+|\.", line)


def disagreements(sentence: Sentence) -> list[str]:
    """What does not agree, by a check of its own: the oracle for both the correct and the broken sentences."""
    found = []
    for phrase in grammar.noun_phrases(sentence):
        wrong_determiners = grammar.SINGULAR_DETERMINERS if phrase.plural else grammar.PLURAL_DETERMINERS
        if phrase.determiner in wrong_determiners:
            found.append("determiner")
        if isinstance(phrase.modifier, SubjectClause) and phrase.modifier.predicate.verb.plural != phrase.plural:
            found.append("clause")
        if isinstance(phrase.modifier, ObjectClause) and phrase.modifier.verb.plural != phrase.modifier.subject.plural:
            found.append("clause")
    if sentence.predicate.verb.plural != sentence.subject.plural:
        found.append("verb")
    if sentence.predicate.is_reflexive:
        ours = {"person": ("himself", "herself"), "animal": ("itself",)}[sentence.subject.kind]
        if sentence.predicate.complement not in (("themselves",) if sentence.subject.plural else ours):
            found.append("reflexive")
    return found


def test_the_vocabulary_names_each_word_once():
    assert len(set(WORDS)) == len(WORDS) == 282


def test_no_word_wants_an():
    after_a = [noun for nouns in grammar.NOUNS.values() for noun in nouns] + grammar.COMMON_ADJECTIVES
    after_a += [word for words in grammar.ADJECTIVES.values() for word in words]
    assert not [word for word in after_a if word[0] in "aeiou"]


@pytest.mark.parametrize(
    ("lemma", "singular", "plural"),
    [
        ("be", "is", "are"),
        ("chase", "chases", "chase"),
        ("carry", "carries", "carry"),
        ("buy", "buys", "buy"),
        ("push", "pushes", "push"),
        ("groom", "grooms", "groom"),
    ],
)
def test_conjugate(lemma, singular, plural):
    assert grammar.conjugate(lemma, plural=False) == singular
    assert grammar.conjugate(lemma, plural=True) == plural


@pytest.mark.parametrize(("noun", "plural"), [("dog", "dogs"), ("box", "boxes"), ("monkey", "monkeys")])
def test_plural_noun(noun, plural):
    assert grammar.plural_noun(noun) == plural


@given(seeds)
def test_drawn_sentences_agree_and_use_known_words_and_no_noun_twice(seed):
    sentence = grammar.draw_sentence(random.Random(seed))
    assert disagreements(sentence) == []
    assert set(words_of(grammar.text(sentence))) <= set(WORDS)
    nouns = [phrase.noun for phrase in grammar.noun_phrases(sentence)]
    assert len(set(nouns)) == len(nouns)


@given(seeds)
def test_the_same_seed_draws_the_same_sentence(seed):
    assert grammar.draw_sentence(random.Random(seed)) == grammar.draw_sentence(random.Random(seed))


@given(seeds)
def test_a_broken_sentence_has_one_disagreement(seed):
    assert len(disagreements(grammar.draw_broken_sentence(random.Random(seed)))) == 1


@pytest.mark.parametrize("break_agreement", BREAKS)
def test_every_break_changes_what_its_name_says(break_agreement):
    rng = random.Random(0)
    what = break_agreement.__name__.removeprefix("break_")
    broken = [break_agreement(rng, grammar.draw_sentence(rng)) for _ in range(200)]
    broken = [sentence for sentence in broken if sentence is not None]
    assert broken
    assert all(disagreements(sentence) == [what] for sentence in broken)


def test_text_of_every_construction():
    modified = NounPhrase("animal", "fox", True, "some", "red", SubjectClause(Predicate(Verb("chase", True), DOG)))
    assert grammar.text(Sentence(modified, Predicate(Verb("sleep", True)), "often")) == (
        "some red foxes that chase the dog sleep often."
    )
    placed = NounPhrase("object", "ring", False, "the", None, PlaceModifier("near", BOX))
    assert grammar.text(Sentence(placed, Predicate(Verb("be", False), complement="golden"))) == (
        "the ring near a box is golden."
    )
    sold = NounPhrase("object", "ring", True, "many", None, ObjectClause(NURSE, Verb("sell", False)))
    assert grammar.text(Sentence(NURSE, Predicate(Verb("buy", False), sold))) == (
        "this nurse buys many rings that this nurse sells."
    )
    assert grammar.text(Sentence(DOG, Predicate(Verb("lick", False), complement="itself"))) == "the dog licks itself."


def test_facts_of_a_sentence_written_out():
    fox = NounPhrase("animal", "fox", True, "some", "red", SubjectClause(Predicate(Verb("chase", True), DOG)))
    ring = NounPhrase("object", "ring", False, "the", None, ObjectClause(NURSE, Verb("sell", False)))
    stated = inference.facts(Sentence(fox, Predicate(Verb("break", True), ring), "often"))
    assert [grammar.text(fact) for fact in stated] == [
        "some foxes break the ring.",
        "some foxes are red.",
        "some foxes chase the dog.",
        "this nurse sells the ring.",
    ]


@pytest.mark.parametrize(("preposition", "both_ways"), [("near", True), ("with", True), ("above", False)])
def test_only_symmetric_places_follow_the_other_way_round(preposition, both_ways):
    host = NounPhrase("animal", "dog", False, "the", None, PlaceModifier(preposition, CATS))
    premise = Sentence(host, Predicate(Verb("sleep", False)))
    turned = Sentence(CATS, Predicate(Verb("be", True), DOG, preposition))
    assert inference.follows(premise, turned) is both_ways
    fact = Sentence(DOG, Predicate(Verb("be", False), CATS, preposition))
    assert inference.follows(premise, fact)
    assert (turned in inference.rearrangements(premise, fact)) is not both_ways


def test_exchanged_conjugates_anew():
    sentence = Sentence(DOG, Predicate(Verb("chase", False), CATS))
    assert grammar.text(sentence) == "the dog chases these cats."
    assert grammar.text(inference.exchanged(sentence)) == "these cats chase the dog."
    assert inference.exchanged(inference.exchanged(sentence)) == sentence


def selection_holds(sentence: Sentence) -> bool:
    """Whether the words of a simple sentence go together: no animal prays, no box is hungry."""
    subject, predicate = sentence.subject, sentence.predicate
    if predicate.preposition:
        return True
    if predicate.verb.lemma == "be":
        return predicate.complement in grammar.ADJECTIVES[subject.kind] + grammar.COMMON_ADJECTIVES
    if predicate.object:
        return predicate.verb.lemma in grammar.TRANSITIVE_VERBS.get((subject.kind, predicate.object.kind), ())
    if predicate.is_reflexive:
        return predicate.verb.lemma in grammar.TRANSITIVE_VERBS[subject.kind, subject.kind]
    return predicate.verb.lemma in grammar.INTRANSITIVE_VERBS[subject.kind]


@given(seeds)
def test_wrong_hypotheses_are_good_sentences_that_do_not_follow(seed):
    rng = random.Random(seed)
    premise = grammar.draw_sentence(rng, weakening=True)
    premise_lemmas = {phrase.noun for phrase in grammar.noun_phrases(premise)}
    for fact in inference.facts(premise):
        assert inference.follows(premise, fact)
        assert disagreements(fact) == []
        rearranged = inference.rearrangements(premise, fact)
        for wrong in [*rearranged, inference.draw_replacement(rng, premise, fact)]:
            assert not inference.follows(premise, wrong)
            assert disagreements(wrong) == []
            assert selection_holds(wrong)
        for wrong in rearranged:
            assert {phrase.noun for phrase in grammar.noun_phrases(wrong)} <= premise_lemmas
            assert len({phrase.noun for phrase in grammar.noun_phrases(wrong)}) == len(grammar.noun_phrases(wrong))


def facts_in_text(line: str) -> set[str]:
    """A second, independent reading of a premise: parses the text itself, left to right. The oracle of `facts`."""
    plural_of = {grammar.plural_noun(noun): noun for nouns in grammar.NOUNS.values() for noun in nouns}
    nouns = {noun for names in grammar.NOUNS.values() for noun in names} | set(plural_of)
    adjectives = {word for words in grammar.ADJECTIVES.values() for word in words} | set(grammar.COMMON_ADJECTIVES)
    determiners = {*grammar.SINGULAR_DETERMINERS, *grammar.PLURAL_DETERMINERS, *grammar.COMMON_DETERMINERS}
    words = words_of(line)[:-1]
    stated, at = set(), 0

    def peek() -> str:
        return words[at] if at < len(words) else ""

    def take() -> str:
        nonlocal at
        at += 1
        return words[at - 1]

    def phrase() -> str:
        determiner, adjective = take(), take() if peek() in adjectives else None
        noun = take()
        assert determiner in determiners and noun in nouns, line
        be = "are" if noun in plural_of else "is"
        name = f"{determiner} {noun}"
        if adjective:
            stated.add(f"{name} {be} {adjective}.")
        if peek() in grammar.PREPOSITIONS:
            preposition = take()
            stated.add(f"{name} {be} {preposition} {phrase()}.")
        elif peek() == "that":
            take()
            if peek() in determiners:
                agent = phrase()
                stated.add(f"{agent} {take()} {name}.")
            else:
                verb = take()
                stated.add(f"{name} {verb} {phrase()}.")
        return name

    subject = phrase()
    verb = take()
    if peek() in determiners:
        stated.add(f"{subject} {verb} {phrase()}.")
    elif peek() and peek() not in grammar.ADVERBS:
        stated.add(f"{subject} {verb} {take()}.")
    else:
        stated.add(f"{subject} {verb}.")
    assert words[at:] == [] or (len(words) == at + 1 and words[at] in grammar.ADVERBS), line
    return stated


@given(seeds, st.booleans())
def test_facts_are_those_that_a_parse_of_the_text_finds(seed, weakening):
    sentence = grammar.draw_sentence(random.Random(seed), weakening=weakening)
    assert {grammar.text(fact) for fact in inference.facts(sentence)} == facts_in_text(grammar.text(sentence))


@given(seeds)
def test_weakening_sentences_use_only_determiners_that_allow_it(seed):
    sentence = grammar.draw_sentence(random.Random(seed), weakening=True)
    assert {phrase.determiner for phrase in grammar.noun_phrases(sentence)} <= grammar.WEAKENING_DETERMINERS
