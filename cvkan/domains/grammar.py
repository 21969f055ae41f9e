"""Sentences about films whose sentiment hangs on negation and contrast, drawn from a small grammar.

A clause says something good or bad in one of two ways:
    DETERMINER NOUN [ADVERB] VERB [NEGATION] [DEGREE] ADJECTIVE      its script is never very dull
    PEOPLE [never] OPINION DETERMINER NOUN                           the critics never praised this ending
with PEOPLE that may be nobody, which negates, too. Negation turns a clause round: "not dull" is good. A sentence is good where the
clause that carries it is:
    plain      A                    A carries
    joined     A and B              A and B agree
    but        A but B              B carries, A says the opposite
    although   although A , B       B carries, A says the opposite
    despite    B although A         B carries, A says the opposite
In a contrast both clauses are negated equally often, so its words, in whatever order, tell nothing. Those of the plain and joined
sentences, half of all, tell something, which gives a model its start and a bag of words an accuracy below .7.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

DETERMINERS = ("the", "this", "its")
NOUNS = ("film", "movie", "plot", "script", "dialogue", "acting", "cast", "hero", "music", "pace", "opening", "ending")
ADVERBS = ("often", "clearly", "somehow", "certainly")
VERBS = ("is", "was", "seems", "remains")
NEGATIONS = (("not",), ("never",), ("far", "from"))
DEGREES = ("very", "really", "quite", "rather")
GOOD = ("good", "clever", "charming", "moving", "funny", "fresh", "gripping", "brilliant", "witty", "warm", "exciting", "elegant")
BAD = ("bad", "weak", "dull", "boring", "stale", "clumsy", "shallow", "silly", "bland", "awful", "lazy", "hollow")
PEOPLE = (("we",), ("everyone",), ("critics",), ("the", "audience"))
NOBODY = (("nobody",), ("no", "one"))
LIKED = ("liked", "loved", "enjoyed", "praised", "admired")
HATED = ("hated", "disliked", "regretted", "mocked", "dreaded")
OPENERS = (("in", "the", "end"), ("to", "me"), ("overall",))
BUT = ("but", "yet")
ALTHOUGH = ("although", "though", "while", "even though")
MARKS = (",", ".", "!", "and")

Words = list[str]


def _words(*groups: tuple[str | tuple[str, ...], ...]) -> tuple[str, ...]:
    parts = [part for group in groups for entry in group for part in ((entry,) if isinstance(entry, str) else entry)]
    return tuple(sorted({word for part in parts for word in part.split()}))


WORDS = _words(
    DETERMINERS, NOUNS, ADVERBS, VERBS, NEGATIONS, DEGREES, GOOD, BAD, PEOPLE, NOBODY, LIKED, HATED, OPENERS, BUT, ALTHOUGH, MARKS
)  # fmt: skip
"""Every word of the grammar, sorted."""
LENGTH = 24
"""Words of the longest sentence."""
NEGATED = 0.25
"""Probability that a clause is negated."""


def drawn(random: Random, sizes: list[int]) -> list[list[tuple[Words, int]]]:
    """Parts of so many (words, 0 bad or 1 good), both by turns; no sentence stands twice in any of them."""
    seen: set[tuple[str, ...]] = set()
    parts: list[list[tuple[Words, int]]] = []
    for size in sizes:
        part: list[tuple[Words, int]] = []
        while len(part) < size:
            good = len(part) % 2
            words = sentence(random, bool(good))
            if tuple(words) not in seen:
                seen.add(tuple(words))
                part.append((words, good))
        parts.append(part)
    return parts


def sentence(random: Random, good: bool) -> Words:
    """A sentence of at most LENGTH words of WORDS."""
    kind = random.choices(list(KINDS), [share for share, _ in KINDS.values()])[0]
    opener = [*random.choice(OPENERS), ","] if random.random() < 0.3 else []
    return [*opener, *KINDS[kind][1](random, good), random.choice((".", ".", "!"))]


def _clause(random: Random, good: bool) -> Words:
    """What is good or bad, as the head of this file says."""
    negated = random.random() < NEGATED
    thing = [random.choice(DETERMINERS), random.choice(NOUNS)]
    if random.random() < 0.3:
        opinion = random.choice(LIKED if good != negated else HATED)
        if negated and random.random() < 0.5:
            return [*random.choice(NOBODY), opinion, *thing]
        return [*random.choice(PEOPLE), *(["never"] if negated else []), opinion, *thing]
    adverb = [random.choice(ADVERBS)] if random.random() < 0.25 else []
    negation = random.choice(NEGATIONS) if negated else ()
    degree = [random.choice(DEGREES)] if random.random() < 0.3 else []
    return [*thing, *adverb, random.choice(VERBS), *negation, *degree, random.choice(GOOD if good != negated else BAD)]


def _plain(random: Random, good: bool) -> Words:
    return _clause(random, good)


def _joined(random: Random, good: bool) -> Words:
    return [*_clause(random, good), "and", *_clause(random, good)]


def _but(random: Random, good: bool) -> Words:
    return [*_clause(random, not good), *([","] if random.random() < 0.5 else []), random.choice(BUT), *_clause(random, good)]


def _although(random: Random, good: bool) -> Words:
    return [*random.choice(ALTHOUGH).split(), *_clause(random, not good), ",", *_clause(random, good)]


def _despite(random: Random, good: bool) -> Words:
    return [*_clause(random, good), *([","] if random.random() < 0.5 else []), *random.choice(ALTHOUGH).split(), *_clause(random, not good)]


KINDS: dict[str, tuple[float, Callable[[Random, bool], Words]]] = {
    "plain": (0.3, _plain),
    "joined": (0.2, _joined),
    "but": (0.2, _but),
    "although": (0.15, _although),
    "despite": (0.15, _despite),
}
"""Kind of a sentence to its share and how it is made."""
