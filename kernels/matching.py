"""Which source module feeds which target module.

A model is a tree of blocks ("input_blocks.7.1.transformer_blocks.3"). Two trees are laid on one another from the
root: named children by name, numbered children (the blocks of a depth) in order. Where the numbering agrees, block i
feeds block i. Where depths differ, dynamic programming picks the pairs that keep the order and give, in this order of
importance, the most modules of equal role and shape, the largest similarity, the most even spread. Blocks move as a
whole, so that the modules of one source block stay together.

LoRA-X (arXiv 2501.16559) pairs each target module with the most similar source module; keeping order and
blocks together is ours. A published pruning map beats any search.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple


class Item(NamedTuple):
    """One module of a model.

    name: unique; role: what it does in its block ("attn1.to_q"); block: dotted path of the block, numbers as path
    elements ("input_blocks.7.1.transformer_blocks.3"; "" for none); shape: of the weight; position: its number in the
    model's order (only used to spread the similarity probes).
    """

    name: str
    role: str
    block: str
    shape: tuple[int, ...]
    position: int = 0


Similarity = Callable[[Item, Item], float]
_NUMBER = re.compile("[0-9]{1,9}").fullmatch  # path elements of other digits, or more, are names


def match(
    source: Iterable[Item],
    target: Iterable[Item],
    similarity: Similarity | None = None,
    *,
    probes: int = 4,
) -> dict[str, str | None]:
    """Pair the modules of two models.

    Args:
        source, target: the modules of each.
        similarity: larger is more alike (Φ, say); asked only where block numbers disagree. Without it blocks spread
            evenly over the depth.
        probes: similarity is asked for at most this many modules of a pair of blocks.

    Returns:
        source name -> target name, None where nothing fits. No target name appears twice.
    """
    source = list(source)
    aligner = _Aligner(similarity, probes)
    pairs = {s.name: t.name for s, t in aligner.pairs(_tree(source), _tree(target))}
    return {item.name: pairs.get(item.name) for item in source}


@dataclass
class _Node:
    """A block: the modules directly in it by role, and its inner blocks by path element."""

    items: dict[str, Item] = field(default_factory=dict)
    children: dict[str, _Node] = field(default_factory=dict)

    def numbered(self) -> list[str]:
        return sorted(filter(_NUMBER, self.children), key=int)

    def named(self) -> list[str]:
        return [name for name in self.children if not _NUMBER(name)]


def _tree(items: Iterable[Item]) -> _Node:
    """The blocks and what is in them; modules of one block whose role is the same go by their names."""
    items, root = list(items), _Node()
    times = Counter((item.block, item.role) for item in items)
    for item in items:
        node = root
        for element in filter(None, item.block.split(".")):
            node = node.children.setdefault(element, _Node())
        node.items[item.role if times[item.block, item.role] == 1 else item.name] = item
    return root


class _Score(NamedTuple):
    """Compared from left to right: number of paired modules, their similarity, evenness of the spread."""

    modules: int = 0
    similarity: float = 0.0
    spread: Fraction = Fraction(0)

    def plus(self, other: _Score) -> _Score:
        return _Score(self.modules + other.modules, self.similarity + other.similarity, self.spread + other.spread)


@dataclass
class _Aligner:
    similarity: Similarity | None
    probes: int
    _scores: dict[tuple[int, int], _Score] = field(default_factory=dict)
    _orders: dict[tuple[int, int], list[tuple[str, str]]] = field(default_factory=dict)

    def pairs(self, source: _Node, target: _Node) -> list[tuple[Item, Item]]:
        """All paired modules below two paired blocks."""
        found = self._items(source, target)
        for name, other in self._children(source, target):
            found += self.pairs(source.children[name], target.children[other])
        return found

    def _items(self, source: _Node, target: _Node) -> list[tuple[Item, Item]]:
        both = ((item, target.items.get(role)) for role, item in source.items.items())
        return [(s, t) for s, t in both if t is not None and s.shape == t.shape]

    def _children(self, source: _Node, target: _Node) -> list[tuple[str, str]]:
        key = id(source), id(target)
        if key not in self._orders:
            named = [(name, name) for name in source.named() if name in target.children]
            self._orders[key] = named + self._numbered(source, target)
        return self._orders[key]

    def _numbered(self, source: _Node, target: _Node) -> list[tuple[str, str]]:
        rows, columns = source.numbered(), target.numbered()
        if rows == columns and all(_same_numbering(source.children[name], target.children[name]) for name in rows):
            return [(name, name) for name in rows]
        scores = [[self._score(source.children[r], target.children[c]) for c in columns] for r in rows]
        size = len(rows) * len(columns)
        for i, row in enumerate(scores):
            for j, score in enumerate(row):
                # Where along its own depth a block lies: the difference is what an even spread minimises.
                away = Fraction(abs(i * len(columns) - j * len(rows)), size)
                row[j] = score._replace(spread=score.spread - away)
        return [(rows[i], columns[j]) for i, j in _best_order(scores)]

    def _score(self, source: _Node, target: _Node) -> _Score:
        key = id(source), id(target)
        if key not in self._scores:
            pairs = self._items(source, target)
            total = _Score(len(pairs), self._similarity(pairs))
            for name, other in self._children(source, target):
                total = total.plus(self._score(source.children[name], target.children[other]))
            self._scores[key] = total
        return self._scores[key]

    def _similarity(self, pairs: list[tuple[Item, Item]]) -> float:
        if self.similarity is None or not pairs:
            return 0.0
        pairs = sorted(pairs, key=lambda pair: pair[0].position)
        count = min(self.probes, len(pairs))
        probed = [pairs[i * len(pairs) // count] for i in range(count)]
        return sum(self.similarity(s, t) for s, t in probed) / count * len(pairs)


def _same_numbering(source: _Node, target: _Node) -> bool:
    """Whether two blocks of one number are the same block: no weight of equal role and other shape, nor inside."""
    if any(role in target.items and target.items[role].shape != item.shape for role, item in source.items.items()):
        return False
    shared = [name for name in source.children if name in target.children]
    if source.children and target.children and not shared:
        return False
    return all(_same_numbering(source.children[name], target.children[name]) for name in shared)


def _best_order(scores: list[list[_Score]]) -> list[tuple[int, int]]:
    """Pairs (i, j), both rising, of the largest total score; pairs without modules are left out, ties go to low i."""
    rows, columns = len(scores), len(scores[0]) if scores else 0
    best = [[_Score()] * (columns + 1) for _ in range(rows + 1)]
    steps = [[""] * columns for _ in range(rows)]
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            options = [(best[i + 1][j], "skip row"), (best[i][j + 1], "skip column")]
            if scores[i][j].modules:
                options.insert(0, (scores[i][j].plus(best[i + 1][j + 1]), "pair"))
            best[i][j], steps[i][j] = max(options, key=lambda option: option[0])
    i = j = 0
    order = []
    while i < rows and j < columns:
        if steps[i][j] == "pair":
            order.append((i, j))
        i, j = i + (steps[i][j] != "skip column"), j + (steps[i][j] != "skip row")
    return order
