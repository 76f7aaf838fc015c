"""Whether the nodes of a training would train the same, by the facts of ``strategies/facts.py``.

Pure. Who is odd among nodes that differ is decided by the majority, and by the first node where
there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from strategies.facts import Facts

_SHOWN = 12  # digits of a hash

Named = Sequence[tuple[str, str]]
"""Something that may differ: names of nodes, such as "gpu-3 (10.0.0.7)", with its value on each."""


def disagreement(facts: Sequence[tuple[str, Facts]], code: str) -> str | None:
    """Why no training can start on these nodes, one reason a line; None if it can.

    ``facts``: the name of each node with what it says of itself; ``code``: the launcher's own
    ``code_hash``.
    """
    reasons = [*_lacking(facts), *_unlike(facts), *_other_code(facts, code), *_data(facts)]
    return "\n".join(reasons) or None


def python_note(facts: Sequence[tuple[str, Facts]]) -> str | None:
    """What is worth a word although training can start: Pythons of different patch releases."""
    if _differ([(node, _minor(fact.python)) for node, fact in facts]):
        return None  # a disagreement, and told as such
    pythons = [(node, fact.python) for node, fact in facts]
    return f"note: Python {_who_has_what(pythons)}" if _differ(pythons) else None


def _lacking(facts: Sequence[tuple[str, Facts]]) -> Iterator[str]:
    """What nodes cannot do, whatever the others can."""
    lacking: dict[tuple[tuple[str, ...], str], list[str]] = {}
    problems: dict[str, list[str]] = {}
    for node, fact in facts:
        if fact.missing:
            lacking.setdefault((fact.missing, fact.extra), []).append(node)
        if fact.problem:
            problems.setdefault(fact.problem, []).append(node)
        if fact.data_error:
            problems.setdefault(fact.data_error, []).append(node)
    for (names, extra), nodes in lacking.items():
        lack = "lacks" if len(nodes) == 1 else "lack"
        yield (
            f"{_listed(nodes)} {lack} {_listed(names)}: "
            f"pip install 'troika-launcher[{extra}]' there"
        )
    for problem, nodes in problems.items():
        yield f"{_listed(nodes)}: {problem}"


def _unlike(facts: Sequence[tuple[str, Facts]]) -> Iterator[str]:
    """Platforms, Pythons and libraries that are not the same."""
    platforms = [(node, fact.platform) for node, fact in facts]
    if _differ(platforms):
        yield f"the platform {_who_has_what(platforms)}: choose nodes of one platform"
    pythons = [(node, _minor(fact.python)) for node, fact in facts]
    if _differ(pythons):
        yield f"Python {_who_has_what(pythons)}: install {_usual(pythons)} on all"
    for name in dict.fromkeys(name for _, fact in facts for name in fact.versions):
        versions = [(node, fact.versions[name]) for node, fact in facts if name in fact.versions]
        if _differ(versions):
            yield f"{name} {_who_has_what(versions)}: install the same"


def _other_code(facts: Sequence[tuple[str, Facts]], code: str) -> Iterator[str]:
    others = [(node, fact.code[:_SHOWN]) for node, fact in facts if fact.code != code]
    if others:
        hashes = _listed(list(dict.fromkeys(value for _, value in others)))
        yield (
            f"Troika's code on {_listed([node for node, _ in others])} is not the launcher's "
            f"({hashes}, here {code[:_SHOWN]}): install the troika-launcher there that is here"
        )


def _data(facts: Sequence[tuple[str, Facts]]) -> Iterator[str]:
    data = [(node, fact.data[:_SHOWN]) for node, fact in facts if fact.data]
    if _differ(data):
        usual = _usual(data)
        odd = [node for node, value in data if value != usual]
        hashes = _listed(list(dict.fromkeys(value for _, value in data if value != usual)))
        folder = next(fact.folder for _, fact in facts)
        where = f"the training data in {folder}" if folder else "the packaged training data"
        cure = "copy the same files to all" if folder else "install the same troika-launcher"
        count = len(data) - len(odd)
        rest = f"the other {count} nodes" if count > 1 else data[0][0]
        yield (
            f"{where} differ on {_listed(odd)} ({hashes}) from those on {rest} ({usual}): {cure}"
        )


def _who_has_what(values: Named) -> str:
    """The odd nodes first: "is 2.12.0 on gpu-3 and 2.13.0 on the other 3 nodes"."""
    usual = _usual(values)
    nodes: dict[str, list[str]] = {}
    for node, value in values:
        nodes.setdefault(value, []).append(node)
    most = nodes.pop(usual)
    rest = f"the other {len(most)} nodes" if len(most) > 1 else most[0]
    odd = [f"{value} on {_listed(names)}" for value, names in nodes.items()]
    return f"is {', '.join(odd)} and {usual} on {rest}"


def _usual(values: Named) -> str:
    """What most have; of what equally many have, the first."""
    return Counter(value for _, value in values).most_common(1)[0][0]


def _differ(values: Named) -> bool:
    return len({value for _, value in values}) > 1


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


def _listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
