"""rl.mask_answer: every answer style has a span of tokens, and a run leaves these tokens out of its loss."""

import numpy as np
import pytest

from srt_jax.grading.answers import STYLES, Format, extract
from srt_jax.jobs.replay import replay
from srt_jax.rollout.sampler import Rollouts
from srt_jax.run import probe, recording
from srt_jax.run.metrics_log import read_metrics
from srt_jax.run.prepare import read_model
from srt_jax.train import train
from tests.helpers import small_config

RESPONSES = {
    "boxed": (r"so \boxed{42}.", "42"),
    "hash": ("so\n#### 42\n", "42"),
    "answer_tag": ("so <answer>42</answer>", "42"),
    "final_answer": ("so the answer is 42.", "42"),
    "last_number": ("so 41 or 42", "42"),
    "json": ('so {"answer": "42"}', '"42"'),
    "regex": ("so x=42;", "42"),
}


class Letters:
    """A tokenizer with a token for each character."""

    added_tokens_decoder: dict = {}  # noqa: RUF012

    def decode(self, row):
        return "".join(map(chr, row))

    def batch_decode(self, rows, skip_special_tokens):
        return [self.decode(row) for row in rows]


@pytest.mark.parametrize("style", STYLES)
def test_every_style_has_a_span(style):
    text, answer = RESPONSES[style]
    tokens = np.array([[list(map(ord, text))]], np.int32)
    rollouts = Rollouts([[65]], tokens, np.array([[len(text)]]), np.zeros(tokens.shape), np.ones((1, 1), bool), 0)
    mask = probe.answer_tokens(rollouts, Letters(), Format(style=style, pattern=r"x=(\d+)" if style == "regex" else ""))
    assert Letters().decode(tokens[mask]) == answer


@pytest.mark.slow
def test_a_run_leaves_answers_out_of_its_loss_and_is_replayed(untrained, tmp_path):
    config = small_config(untrained, tmp_path, name="run", steps=1)
    config.rl.mask_answer, config.answer.style = True, "last_number"  # the untrained model writes digits, but no boxes
    train(config)
    directory = tmp_path / "run"
    assert replay(directory) == {1: {}}
    tokenizer = read_model(config).tokenizer
    with np.load(recording.rollouts_path(directory, 1, recording.RECORDED)) as saved:
        labelled, lengths = saved["labelled"], saved["lengths"]
        counts = [[answer_length(row[:end], tokenizer) for row, end in zip(*p)] for p in zip(saved["tokens"], lengths)]
    expected = np.array(counts)[labelled].sum() / lengths[labelled].sum()
    assert expected > 0.01
    found = next(record for record in read_metrics(directory) if record["step"] == 1)["update/masked"]
    assert found == pytest.approx(expected, abs=1e-6)


def answer_length(tokens, tokenizer):
    """The number of tokens from the first to the last one of the answer. Special tokens have no characters."""
    pieces = tokenizer.batch_decode([[token] for token in tokens], skip_special_tokens=True)
    if (answer := extract("".join(pieces), "last_number")) is None:
        return 0
    ends = np.cumsum([len(piece) for piece in pieces])
    return int((ends > answer.end - 1).argmax() - (ends > answer.start).argmax()) + 1
