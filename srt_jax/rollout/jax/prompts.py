"""The rows of one compiled sampler call."""

from typing import Any

import flax.struct

Array = Any  # jax.Array inside the sampler; np.ndarray before it is placed


@flax.struct.dataclass
class Prompts:
    """The rows of one call. Each row draws some samples of one prompt.

    tokens [P, S], right-padded with 0; lengths [P]; seeds [P, 2] uint32; first [P], the index of the row's first
    sample; samples [P], the number of its samples, 0 for an empty row.
    """

    tokens: Array
    lengths: Array
    seeds: Array
    first: Array
    samples: Array
