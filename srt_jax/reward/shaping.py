"""What a response's length does to its reward and to its place in the loss (DAPO, Yu et al. 2025). NumPy, pure."""

import numpy as np


def overlong_penalty(lengths: np.ndarray, max_tokens: int, buffer: int) -> np.ndarray:
    """DAPO eq. 13: 0 up to max_tokens - buffer, then falling linearly to -1 at max_tokens; float32, like lengths.

    buffer 0: no penalty. A response that was cut has max_tokens, and so the whole penalty.
    """
    if not buffer:
        return np.zeros(np.shape(lengths), np.float32)
    return np.clip((max_tokens - buffer - np.asarray(lengths)) / buffer, -1, 0).astype(np.float32)


def kept(stopped: np.ndarray, drop_truncated: bool) -> np.ndarray:
    """[P, n] bool: the responses that count in the loss. drop_truncated: not those that were cut (DAPO, section 3.4).

    A response that is not kept still votes, and its reward stays in the baseline of the others.
    """
    return stopped | (not drop_truncated)
