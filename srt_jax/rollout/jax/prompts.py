"""The rows of one compiled sampler call."""

from typing import Any

import flax.struct

Array = Any  # jax.Array inside the sampler; np.ndarray before it is placed


@flax.struct.dataclass
class Prompts:
    """The rows of one call: a prompt and the samples of it that are drawn here.

    tokens [P, S], right-padded with 0; lengths [P]; seeds [P, 2] uint32; first [P], the index of the row's first
    sample; samples [P], how many: 0 for an empty row.
    """

    tokens: Array
    lengths: Array
    seeds: Array
    first: Array
    samples: Array
