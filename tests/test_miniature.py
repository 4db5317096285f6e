"""The laptop task: its text, its slips, its tokenizer, and the batches the base model learns from."""

import json
import os

import jax
import numpy as np
import pytest
from transformers import AutoTokenizer

from srt_jax.errors import TrainingStoppedError
from srt_jax.grading.answers import extract
from srt_jax.miniature import pretrain, task
from srt_jax.model import sharding


def test_solutions_without_slips_are_right_and_fit():
    rng = np.random.default_rng(0)
    tokenizer = task.tokenizer()
    for _ in range(300):
        terms = task.random_terms(rng)
        text = task.solution_text(terms, rng, slip_rate=0.0)
        assert extract(text).text == str(sum(terms))
        assert text.split(".")[0].split(",") == [str(t) for t in np.cumsum(terms)[1:]]
        assert len(tokenizer(text)["input_ids"]) < task.MAX_RESPONSE_TOKENS
        assert len(tokenizer(task.problem_text(terms) + "=")["input_ids"]) <= task.MAX_PROMPT_TOKENS
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_slips_spoil_about_as_many_answers_as_their_rate_says():
    rng = np.random.default_rng(1)
    terms = [5, 5, 5, 5]  # three additions, never near zero
    right = [extract(task.solution_text(terms, rng, 0.15)).text == "20" for _ in range(4000)]
    # All three additions right: 0.85^3 = 0.614; two slips that cancel out add a little.
    assert 0.60 < np.mean(right) < 0.65


def test_heldout_problems_are_neither_trained_on_nor_pretrained_on():
    heldout, train = task.problem_sets()
    assert len(heldout) == 128 and len(train) == 2048
    assert not {tuple(t) for t in heldout} & {tuple(t) for t in train}
    texts = {task.problem_text(t) + "=" for t in heldout}
    batch = pretrain.batch(pretrain.Recipe(), 3, sharding.make_mesh(devices=jax.devices()[:1]))
    asked = (np.asarray(batch.rollout) >= 0) & ~np.asarray(batch.response)
    prompts = {
        task.tokenizer().decode(tokens[mask])
        for tokens, mask in zip(np.concatenate(batch.tokens), np.concatenate(asked))
    }
    assert len(prompts) > 50 and not prompts & texts


def test_the_cached_base_is_an_ordinary_directory_and_is_used_again(miniature, capsys):
    pretrain.pretrain(miniature, pretrain.Recipe())
    assert "using it" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(miniature)
    assert tokenizer(r"1+2=3.\boxed{3}")["input_ids"][-3:] == tokenizer(r"\boxed{3}")["input_ids"]


def test_a_base_records_what_else_changes_its_weights(untrained):
    made_with = json.loads((untrained / "recipe.json").read_text())["made_with"]
    assert made_with == {
        "jax": jax.__version__,
        "platform": jax.default_backend(),
        "devices": jax.device_count(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def test_a_pretraining_that_diverges_says_so_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(task.HF_CONFIG, "initializer_range", 1e38)
    with pytest.raises(TrainingStoppedError, match=r"step 2 is nan, and nothing was written .*: choose another --seed"):
        pretrain.pretrain(tmp_path / "base", pretrain.Recipe(steps=2, warmup_steps=1))
    assert not list(tmp_path.iterdir())
