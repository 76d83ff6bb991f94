"""Half-open intervals of keys, and the question "which of them hold this key?".

An AVL tree ordered by (lo, hi) in which every node knows the greatest `hi` below it: the classic interval
tree. Clients choose the intervals, so the bound must not hang on luck: add, remove O(log n), find O(log n +
matches). Knows nothing of watchers; whatever is filed comes back as it was.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class _Node(Generic[T]):
    __slots__ = ("height", "hi", "item", "left", "lo", "max_hi", "right")

    def __init__(self, lo: bytes, hi: bytes, item: T) -> None:
        self.lo = lo
        self.hi = hi
        self.item = item
        self.height = 1
        self.max_hi = hi
        self.left: _Node[T] | None = None
        self.right: _Node[T] | None = None


class IntervalTree(Generic[T]):
    """Items filed under distinct intervals [lo, hi), lo < hi."""

    __slots__ = ("_count", "_root")

    def __init__(self) -> None:
        self._root: _Node[T] | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, lo: bytes, hi: bytes, item: T) -> None:
        """File `item`. The interval must not be taken."""
        assert lo < hi, "an interval without keys"
        self._root = _insert(self._root, _Node(lo, hi, item))
        self._count += 1

    def remove(self, lo: bytes, hi: bytes) -> None:
        """Take out what is filed under exactly this interval; it must be there."""
        self._root = _delete(self._root, lo, hi)
        self._count -= 1

    def find(self, key: bytes, found: list[T]) -> None:
        """Append the items of all intervals that hold `key`, in an order that hangs only on the tree's
        history."""
        todo = [self._root]
        while todo:
            node = todo.pop()
            if node is None or node.max_hi <= key:
                continue
            todo.append(node.left)
            if node.lo <= key:
                if key < node.hi:
                    found.append(node.item)
                todo.append(node.right)

    def check(self) -> None:
        """Assert order, balance and `max_hi` everywhere. For tests."""
        nodes = _check(self._root)
        assert nodes == sorted(set(nodes)), "out of order, or one interval twice"
        assert len(nodes) == self._count


def _insert(node: _Node[T] | None, new: _Node[T]) -> _Node[T]:
    if node is None:
        return new
    assert (new.lo, new.hi) != (node.lo, node.hi), "the interval is taken"
    if (new.lo, new.hi) < (node.lo, node.hi):
        node.left = _insert(node.left, new)
    else:
        node.right = _insert(node.right, new)
    return _balanced(node)


def _delete(node: _Node[T] | None, lo: bytes, hi: bytes) -> _Node[T] | None:
    assert node is not None, "the interval is not filed"
    if (lo, hi) < (node.lo, node.hi):
        node.left = _delete(node.left, lo, hi)
    elif (lo, hi) > (node.lo, node.hi):
        node.right = _delete(node.right, lo, hi)
    elif node.left is None:
        return node.right
    elif node.right is None:
        return node.left
    else:
        heir = node.right
        while heir.left is not None:
            heir = heir.left
        node.lo, node.hi, node.item = heir.lo, heir.hi, heir.item
        node.right = _delete(node.right, heir.lo, heir.hi)
    return _balanced(node)


def _height(node: _Node[T] | None) -> int:
    return 0 if node is None else node.height


def _refresh(node: _Node[T]) -> None:
    """Recompute what a node knows of its subtree from its children."""
    left, right = node.left, node.right
    node.height = 1 + max(_height(left), _height(right))
    max_hi = node.hi
    if left is not None and left.max_hi > max_hi:
        max_hi = left.max_hi
    if right is not None and right.max_hi > max_hi:
        max_hi = right.max_hi
    node.max_hi = max_hi


def _balanced(node: _Node[T]) -> _Node[T]:
    """The subtree of `node` with heights of siblings differing by at most one; children are balanced
    already."""
    tilt = _height(node.left) - _height(node.right)
    if tilt > 1:
        left = node.left
        assert left is not None
        if _height(left.left) < _height(left.right):
            node.left = _rotated_left(left)
        return _rotated_right(node)
    if tilt < -1:
        right = node.right
        assert right is not None
        if _height(right.right) < _height(right.left):
            node.right = _rotated_right(right)
        return _rotated_left(node)
    _refresh(node)
    return node


def _rotated_right(node: _Node[T]) -> _Node[T]:
    top = node.left
    assert top is not None
    node.left, top.right = top.right, node
    _refresh(node)
    _refresh(top)
    return top


def _rotated_left(node: _Node[T]) -> _Node[T]:
    top = node.right
    assert top is not None
    node.right, top.left = top.left, node
    _refresh(node)
    _refresh(top)
    return top


def _check(node: _Node[T] | None) -> list[tuple[bytes, bytes]]:
    """Intervals of the subtree in tree order."""
    if node is None:
        return []
    left, right = _check(node.left), _check(node.right)
    assert abs(_height(node.left) - _height(node.right)) <= 1, "out of balance"
    assert node.height == 1 + max(_height(node.left), _height(node.right))
    every = [*left, (node.lo, node.hi), *right]
    assert node.max_hi == max(hi for _, hi in every)
    return every
