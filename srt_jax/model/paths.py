"""Access to parameters by dotted path, e.g. `layers.q.kernel`."""

from collections.abc import Callable, Iterator

import jax
from flax import nnx


def flat_paths(tree: nnx.State) -> Iterator[tuple[str, jax.Array]]:
    """Yields (dotted path, leaf) of every parameter."""
    pure = nnx.to_pure_dict(tree) if isinstance(tree, nnx.State) else tree
    for path, leaf in jax.tree_util.tree_leaves_with_path(pure):
        yield ".".join(str(p.key) for p in path), leaf


def map_with_path(function: Callable, tree: nnx.State) -> nnx.State:
    """The tree with function(dotted path, leaf) in place of every leaf."""
    pure = jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(".".join(str(p.key) for p in path), leaf), nnx.to_pure_dict(tree)
    )
    result = jax.tree.map(lambda x: x, tree)
    nnx.replace_by_pure_dict(result, pure)
    return result
