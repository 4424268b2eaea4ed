"""The terms that pages explain: a sentence for each, the same as in ``docs/glossary.md``, which a test keeps equal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape, unescape

TERMS = {
    "aggregation gap": "‖Σ pₖBₖAₖ − B̄Ā‖: the difference between averaging products and multiplying averages.",
    "AUC": "The area under the ROC curve: how often a positive example has a higher score than a negative one.",
    "balanced accuracy": "The mean over the classes of the share of their examples that are predicted correctly.",
    "base": "The frozen weights, identical on the server and on every client.",
    "catch-up": (
        "Bringing a client's base to the current version, by increments or by dense weights, whichever is smaller."
    ),
    "chance level": "The value that independent random matrices or vectors of the same shapes would have.",
    "cohort": "The clients sampled for one round.",
    "dense": "Trained tensors that are sent in full, because they have no factors, such as biases and norms.",
    "effective rank": (
        "The exponential of the entropy of the normalized singular values: how many directions a matrix uses."
    ),
    "envelope": "All bytes of a message except those of the values of tensors, such as names and shapes.",
    "exact match": "The share of generated answers that are equal to the reference.",
    "factors": (
        "The trained matrices of an adapted weight: A (r × i) is the down-projection, B (o × r) the up-projection."
    ),
    "first download": "The base, sent to a client on first contact unless clients load it themselves.",
    "Gauss-Newton matrix": (
        "The part of the Hessian that remains if the model is linearized; it has no negative eigenvalues."
    ),
    "Hessian": "The matrix of second derivatives of the loss; its eigenvalues are the curvatures of the loss.",
    "increment": "The factors merged in one merge.",
    "increments": "Factors of merges, sent to clients that missed them.",
    "Huber loss": "Half the squared error up to a threshold, and growing linearly beyond it.",
    "label skew": "The mean total variation distance between the classes of a client and those of all clients.",
    "loss at merges": "The loss on at most 500 test examples just before and just after a merge.",
    "macro-F1": "The unweighted mean over the classes of the harmonic mean of precision and recall.",
    "merge": "Add s·BA, the scaled product of the factors, to the base.",
    "nats": "The unit of a loss with the natural logarithm; guessing one of n classes costs ln n nats.",
    "overlap": (
        "How far the spaces of two consecutive increments coincide: 0 is chance level, 1 means identical spaces."
    ),
    "Pareto front": "The results that no other result beats in both accuracy and bytes.",
    "perplexity": (
        "The exponential of the mean loss per token: a model that guesses among n equally likely tokens has n."
    ),
    "profile": (
        "What distinguishes a client, such as the highest rank it can train. Clients without one have the default "
        "profile."
    ),
    "R²": "The share of the variance of the targets that the predictions explain: 1 is perfect, 0 is their mean.",
    "RMSE": "The square root of the mean squared error, in the unit of the targets.",
    "site": (
        "One adapted weight of a model: its key, the keys of its factors, shape, rank and scale. In guides to data and "
        "federations, an institution that takes part as one client, such as a hospital."
    ),
    "spectrum": "The eigenvalues of a matrix, here as the number of those that have at least a given magnitude.",
    "stable rank": (
        "The sum of the squared singular values over the largest squared one: how many directions matter, by energy."
    ),
    "statistics": "Buffers that a forward pass updates, such as the running means of batch normalization.",
    "update cosine": (
        "The mean cosine between the updates of two clients of a cohort: 1 if they agree, 0 if they are orthogonal."
    ),
    "version": "The number of increments merged into a base.",
}
"""Terms in the form in which pages show them, and what they mean."""

_AMBIGUOUS = frozenset({"dense", "statistics", "version"})
"""Terms that sentences also use in other senses; they are explained only where they stand alone."""


def _pattern(terms: Iterable[str]) -> re.Pattern[str]:
    words = "|".join(re.escape(term) for term in sorted(terms, key=len, reverse=True))
    return re.compile(rf"(?<![\w-])({words})s?(?![\w-])", re.IGNORECASE)


_TERM, _IN_PROSE = _pattern(TERMS), _pattern(TERMS.keys() - _AMBIGUOUS)
_BY_LOWER = {term.lower(): term for term in TERMS}
_MARKED = re.compile(r'<abbr title="[^"]*">([^<]*)</abbr>')


def explained(text: str) -> str:
    """Return ``text`` as HTML, escaped, with the first occurrence of each term marked with its explanation."""
    seen: set[str] = set()
    parts, end = [], 0
    for found in _IN_PROSE.finditer(text):
        if (term := _BY_LOWER[found[1].lower()]) not in seen:
            seen.add(term)
            parts += [escape(text[end : found.start()]), _marked(found[0], term)]
            end = found.end()
    return "".join(parts) + escape(text[end:])


def named(text: str) -> str:
    """Return ``text`` as HTML, escaped, with its explanation if it is a term as a whole, such as a row header."""
    found = _TERM.fullmatch(text)
    return _marked(text, _BY_LOWER[found[1].lower()]) if found else escape(text)


def used(html: str) -> list[tuple[str, str]]:
    """Return the terms that are marked in ``html``, with their explanations, in alphabetical order."""
    found = (_TERM.fullmatch(unescape(text)) for text in _MARKED.findall(html))
    terms = {_BY_LOWER[match[1].lower()] for match in found if match}
    return [(term, TERMS[term]) for term in sorted(terms, key=str.lower)]


def _marked(text: str, term: str) -> str:
    return f'<abbr title="{escape(TERMS[term])}">{escape(text)}</abbr>'
