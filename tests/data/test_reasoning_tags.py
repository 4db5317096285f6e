"""Answers inside reasoning do not count, whether prompt or response opens it, and whatever tokens its tags are."""

import pytest
from tokenizers import decoders

from srt_jax.grading.answers import Format
from srt_jax.run.rollouts import extract_answers, response_texts

TAGS = ("<think>", "</think>")
USUAL = ("<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>")
OPENED = "<|im_start|>assistant\n<think>\n"
CLOSED = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
CUT = r"maybe \boxed{1}"
WHOLE = r"maybe \boxed{1}</think>So \boxed{2}<|im_end|>"


def extracted(tokenizer, prompt, *responses):
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()  # characters without blanks between them
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in (prompt, *responses)]
    return extract_answers(response_texts(ids[1:], tokenizer), ids[0], tokenizer, Format())


@pytest.mark.parametrize("special", [USUAL, USUAL + TAGS], ids=["tags are text", "tags are special tokens"])
def test_only_what_follows_the_reasoning_counts(make_tokenizer, special):
    tokenizer = make_tokenizer(special=special)
    assert extracted(tokenizer, OPENED, CUT, WHOLE, r"no end, \boxed{3}") == [None, "2", None]
    assert extracted(tokenizer, CLOSED, CUT, r"<think>\boxed{1}", WHOLE) == ["1", None, "2"]
    assert extracted(tokenizer, "1+1=", CUT, "<think>" + WHOLE, "<think>" + CUT) == ["1", "2", None]


def test_other_special_tokens_are_left_out(make_tokenizer):
    tokenizer = make_tokenizer(special=USUAL + TAGS)
    assert extracted(tokenizer, OPENED, r"a</think>\boxed{4<|im_end|>2}</s>") == ["42"]
