"""Forms of a word: the spellings that mean it where an answer begins, by declared rules.

    case      its first letter lower and upper: owl, Owl        space     with a space before it: " owl"
    article   a (an before a vowel) and the: an owl, the owl    plural    regular: owls, wolves

Rules are combined: article and case give "An owl" and "The owl", with a plural "The owls" too.
"""

from __future__ import annotations

from collections.abc import Sequence

from interp.core.errors import InputError, nearest

RULES = ("case", "space", "article", "plural")
USUAL = ("case", "space")
"""What a trait declares unless it says otherwise: nothing but how a word is written where an answer begins."""


def word_forms(word: str, rules: Sequence[str] = USUAL) -> tuple[str, ...]:
    """Every form of a word by these rules, the word as it is written first; none gives that one alone.

    >>> word_forms("owl")
    ('owl', 'Owl', ' owl', ' Owl')
    >>> word_forms("owl", ["article", "plural"])
    ('owl', 'an owl', 'the owl', 'owls', 'the owls')
    """
    check_rules(rules)
    numbers = [word, plural(word)] if "plural" in rules else [word]
    forms = [
        form for each in numbers for form in (each, *_articles(each, each == word) * ("article" in rules))
    ]
    if "case" in rules:
        forms = [*forms, *map(_other_case, forms)]
    if "space" in rules:
        forms = [*forms, *(f" {form}" for form in forms)]
    return tuple(dict.fromkeys(forms))


def spellings(word: str) -> tuple[str, str, str, str]:
    """The word as it is, with its first letter's other case, and both behind a space: the same four places for all."""
    other = _other_case(word)
    return word, other, f" {word}", f" {other}"


def plural(word: str) -> str:
    """The regular plural: owls, foxes, wolves, butterflies."""
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        return word[:-1] + "ies"
    if word.endswith("lf"):
        return word[:-1] + "ves"
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")


def check_rules(rules: Sequence[str]) -> None:
    """InputError for a rule that is not known, with the nearest ones."""
    for rule in rules:
        if rule not in RULES:
            raise InputError(f"Form {nearest(rule, RULES)}; pass some of {', '.join(RULES)}, or none.")


def _other_case(form: str) -> str:
    return form[:1].swapcase() + form[1:]


def _articles(word: str, singular: bool) -> tuple[str, ...]:
    """The word behind its articles, none where it brings one."""
    if word.lower().startswith(("a ", "an ", "the ")):
        return ()
    indefinite = (f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}",)
    return (*indefinite * singular, f"the {word}")
