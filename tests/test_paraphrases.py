"""Pairs of a problem and its paraphrase: their order, the votes of partners, a whole run, and wrong input."""

import collections
import json

import numpy as np
import pytest

from srt_jax.config.validation import validate
from srt_jax.data import paraphrases
from srt_jax.data.base import Problem
from srt_jax.data.rows import prompt_id
from srt_jax.errors import ConfigError, DataError
from srt_jax.grading.grader import Grader
from srt_jax.jobs.replay import replay
from srt_jax.miniature import bases
from srt_jax.reward.labels import LabelSettings
from srt_jax.rollout.sampler import Rollouts, Sampling
from srt_jax.run import recording
from srt_jax.run.prepare import prepare
from srt_jax.run.rollouts import Grading, answer_format, sample_and_grade
from srt_jax.train import train
from tests.helpers import small_config
from tests.test_collect import rollout_rows


def pair_config(model, out, name="run", steps=1, **changes):
    config = small_config(model, out, name, steps)
    config.labels.source, config.data.paraphrases = "paraphrase", str(model / "paraphrases.jsonl")
    config.vote.match = config.reward.match = "string"
    config.checkpoint.every = 1
    config.update_from_flattened_dict(changes)
    return config


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_step_has_whole_pairs_and_an_epoch_each_pair_once():
    steps = [paraphrases.pair_indices(20, 4, seed=3, step=step).reshape(2, 2) for step in range(10)]
    assert all((first + 1 == second) & (first % 2 == 0) for step in steps for first, second in step)
    for epoch in (steps[:5], steps[5:]):
        assert sorted(first // 2 for step in epoch for first, _ in step) == list(range(10))


def released_rewards(answers: np.ndarray) -> np.ndarray:
    """The rewards [2, n] of a pair's answers [2, n], where "" is a missing one.

    Written after the description of co_reward.py in Co-rewarding at 6c60ea4, with NumPy only: a side's label is the
    most frequent answer of the other side, the first of equally frequent ones, and texts are compared.
    """
    rewards = np.zeros(answers.shape)
    for own, other in ((0, 1), (1, 0)):
        found = answers[other][answers[other] != ""]
        if found.size:
            texts, first, counts = np.unique(found, return_index=True, return_counts=True)
            rewards[own] = answers[own] == texts[np.lexsort((first, -counts))[0]]
    return rewards


class Answering:
    """A sampler of given answers: sample i of prompt p writes token p * n + i, whose text has the answer."""

    def generate(self, prompts, n, sampling, seeds, finished, advanced=None):
        tokens = np.arange(len(prompts) * n, dtype=np.int32).reshape(-1, n, 1)
        for p in reversed(range(len(prompts))):  # in any order
            finished(p, list(tokens[p]), [True] * n)
        ones = np.ones(tokens.shape[:2], np.int32)
        return Rollouts(list(prompts), tokens, ones, tokens.astype(np.float32), ones.astype(bool), 0)


class Texts:
    """A tokenizer with one token per text."""

    def __init__(self, texts):
        self.texts, self.added_tokens_decoder = texts, {}

    def decode(self, ids):
        return ""

    def batch_decode(self, responses, skip_special_tokens):
        return [self.texts[int(response[0])] for response in responses]


def test_votes_of_partners_reward_as_in_the_released_code(untrained):
    rng, n = np.random.default_rng(0), 6
    answers = rng.choice(["1", "2", "1.0", ""], (40, n), p=[0.3, 0.3, 0.2, 0.2])
    answers[4] = ""  # a side without any answer
    problems = [Problem(f"p{i}", "?", "1", "test") for i in range(len(answers))]
    tokenizer = Texts([rf"so \boxed{{{answer}}}" if answer else "?" for answer in answers.ravel()])
    with Grader(workers=1, match="string") as by_string:
        form = answer_format(pair_config(untrained, untrained))
        grading = Grading(tokenizer, form, by_string, LabelSettings("paraphrase", match="string"))
        prompts = [[0]] * len(problems)
        found = sample_and_grade(Answering(), grading, problems, prompts, n, Sampling(1, 1.0), range(len(problems)))
    expected = np.concatenate([released_rewards(pair) for pair in answers.reshape(-1, 2, n)])
    np.testing.assert_array_equal([g.rewards for g in found.graded], expected)
    assert 0.2 < expected.mean() < 0.5
    assert [g.labelled for g in found.graded][4:6] == [True, False]  # its partner has no label


@pytest.fixture(scope="module")
def run(untrained, tmp_path_factory):
    """The folder of a run of two steps."""
    out = tmp_path_factory.mktemp("runs")
    train(pair_config(untrained, out, steps=2))
    return out / "run"


def test_in_a_run_each_problem_has_the_majority_of_its_paraphrase_as_label(run):
    rows = list(rollout_rows(run, 1).items())
    assert len(rows) == 8
    labels = 0
    for (id, group), (other, others) in zip(rows[::2], rows[1::2], strict=True):
        assert other == id + paraphrases.ENDING
        assert collections.Counter(group[0]["problem"]) == collections.Counter(others[0]["problem"])  # the same terms
        for mine, theirs in ((group, others), (others, group)):
            votes = collections.Counter(row["answer"] for row in theirs if row["answer"])
            label = votes.most_common(1)[0][0] if votes else None
            labels += label is not None
            assert {row["label"] for row in mine} == {label}
            assert [row["reward"] for row in mine] == [float(label is not None and r["answer"] == label) for r in mine]
    assert labels


def test_a_stopped_run_of_pairs_goes_on_bit_for_bit_and_is_replayed(run, untrained, tmp_path):
    config = pair_config(untrained, tmp_path)
    train(config)
    config.steps = 2
    train(config)
    ours, theirs = (recording.rollouts_path(f, 2, recording.RECORDED) for f in (tmp_path / "run", run))
    assert ours.read_bytes() == theirs.read_bytes()
    assert replay(run) == {1: {}, 2: {}}


def test_a_pair_whose_paraphrase_is_too_long_is_dropped_and_reported(untrained, tmp_path):
    rows = [json.loads(line) for line in (untrained / "train.jsonl").read_text().splitlines()][:10]
    short = [{"problem": row["problem"], "paraphrase": "0+" + row["problem"]} for row in rows]
    short[3]["paraphrase"], short[4]["paraphrase"] = "0+" * 9 + "1", rows[4]["problem"]
    path = write(tmp_path / "pairs.jsonl", *short)
    changes = {"data.paraphrases": str(path), "data.limit": 10, "batch.max_prompt_tokens": 12}
    prepared = prepare(pair_config(untrained, tmp_path, **changes, **{"rollout.prompt_buckets": (12,)}))
    assert len(prepared.problems) == len(prepared.prompts) == 18
    ids = [problem.id for problem in prepared.problems]
    assert [id + paraphrases.ENDING for id in ids[::2]] == ids[1::2] and prompt_id(rows[3]["problem"]) not in ids
    assert [line for line in prepared.report if line.endswith("9 of 10 pairs, 1 of them with the same text twice")]
    assert all(problem.answer == other.answer for problem, other in zip(*[iter(prepared.problems)] * 2))
    write(path, *({**row, "paraphrase": "0+" * 9 + "1"} for row in short))
    config = pair_config(untrained, tmp_path, **changes, **{"rollout.prompt_buckets": (12,)})
    with pytest.raises(
        DataError, match=r"^data\.paraphrases .*pairs\.jsonl: all 10 prompts are longer than max_prompt_"
    ):
        prepare(config)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "paraphrase": "x"}], r"no paraphrase of 1 of 2 problems \(the first has the id 'b'\): add one"),
        ([{"id": "a", "paraphrase": " "}], r"line 1 has paraphrase ' ': give a text that is not blank"),
        ([{"id": "a"}], r"line 1 has paraphrase None: give a text"),
        ([{"id": 1.5, "paraphrase": "x"}], r"line 1 has id 1\.5: give the problem's id, or its text as `problem`"),
        ([{"paraphrase": "x"}], r"line 1 has id None: give the problem's id"),
        ([{"id": "a", "paraphrase": "\ud800"}], r"half of a surrogate pair"),
        ([{"id": "a", "paraphrase": "x"}] * 2, r"line 2 has a second paraphrase of 'a': keep one line"),
        (
            [{"id": "a", "paraphrase": "x", "answer": 2.0}, {"id": "b", "paraphrase": "y", "answer": "4"}],
            r"line 2 has the answer '4', but its problem has '3', and a paraphrase .*: correct one of them, write both "
            r"in the same form, or leave `answer` out\.$",
        ),
        (
            [{"id": "a", "paraphrase": "1+1"}, {"id": "b", "paraphrase": "1+2"}],
            r"repeats the text of each problem as its paraphrase: give other texts\.$",
        ),
    ],
)
def test_a_wrong_file_of_pairs_is_refused_in_one_sentence(rows, message, tmp_path):
    problems = [Problem("a", "1+1", "2", "test"), Problem("b", "1+2", "3", "test")]
    with pytest.raises(DataError, match=message):
        paraphrases.paraphrased(problems, write(tmp_path / "pairs.jsonl", *rows))


def test_an_answer_of_a_line_is_compared_with_the_known_one_if_there_are_two(tmp_path):
    problems = [Problem("a", "1+1", "1/2", "test"), Problem("b", "1+2", None, "test"), Problem("c", "?", "5", "test")]
    problems.append(Problem("d", "1+3", "4", "test"))
    rows = [
        {"id": "a", "paraphrase": "x", "answer": r"so \boxed{0.5}"},
        {"id": "b", "paraphrase": "y", "answer": "7"},
        {"id": "c", "paraphrase": "?", "answer": None},
        {"id": "d", "paraphrase": "z", "answer": ""},
    ]
    others = paraphrases.paraphrased(problems, write(tmp_path / "pairs.jsonl", *rows))
    assert [(p.prompt, p.answer) for p in others] == [("x", "1/2"), ("y", None), ("?", "5"), ("z", "4")]
    assert paraphrases.repeated(problems, others) == 1


def test_an_id_may_be_a_number_as_in_the_data_or_null(tmp_path):
    rows = [{"id": 12, "paraphrase": "x"}, {"id": None, "problem": "1+2", "paraphrase": "y"}]
    assert paraphrases.read(write(tmp_path / "pairs.jsonl", *rows)) == {"12": "x", prompt_id("1+2"): "y"}


def test_an_id_that_could_be_that_of_a_paraphrase_is_refused(tmp_path):
    problem = Problem("a" + paraphrases.ENDING, "1+1", "2", "test")
    with pytest.raises(DataError, match=r"the id 'a/paraphrase', .*: give the problem another id"):
        paraphrases.paraphrased([problem], write(tmp_path / "pairs.jsonl", {"id": problem.id, "paraphrase": "x"}))


def test_too_few_pairs_for_a_step_are_counted():
    with pytest.raises(
        DataError, match=r"^batch\.prompts_per_step is 20, which needs 10 .* are 9: set it between 2 and 18"
    ):
        paraphrases.pair_indices(18, 20, 0, 0)


def test_a_missing_file_of_pairs_is_named(tmp_path):
    with pytest.raises(DataError, match=r"^data\.paraphrases .*none\.jsonl does not exist: write one line"):
        paraphrases.read(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"^data\.paraphrases .* is a folder: write one line .* to a file\."):
        paraphrases.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.paraphrases": ""}, r"^labels\.source is 'paraphrase', but data\.paraphrases is empty: name a file"),
        ({"labels.source": "vote"}, r"^data\.paraphrases is '.*', but labels\.source is 'vote', which does not use it"),
        (
            {"batch.prompts_per_step": 7, "batch.microbatch_sequences": 28},
            r"^batch\.prompts_per_step is 7, .* half of the prompts .*: give an even num",
        ),
        ({"batch.resample_rounds": 1}, r"^batch\.resample_rounds is 1, which chooses single problems, .*: set .* to 0"),
        ({"curriculum.path": "x"}, r"^curriculum\.path is 'x', which chooses single problems, .*: set .* to ''"),
        (
            {"eval.sets.heldout.paraphrases": "x"},
            r"^eval\.sets\.heldout\.paraphrases is 'x', but evaluations do not use",
        ),
        (
            {"eval.sets.heldout.labelled_column": "x"},
            r"^eval\.sets\.heldout\.labelled_column is 'x', but evaluations do",
        ),
        ({"reward.shape": "empo"}, r"reward\.shape is 'empo', .* but labels\.source is 'paraphrase'"),
        ({"guard.action": "teacher"}, r"^guard\.action is 'teacher', .* but labels\.source is 'paraphrase'"),
    ],
)
def test_wrong_settings_of_pairs_are_refused(changes, message, tmp_path):
    config = pair_config(tmp_path, tmp_path, **changes)
    if "curriculum.path" in changes:
        config.curriculum.steps = 1
    with pytest.raises(ConfigError, match=message):
        validate(config)


@pytest.mark.parametrize("base", bases.BASES.values(), ids=list(bases.BASES))
def test_paraphrases_of_sums_have_the_same_terms_and_are_not_held_out(base):
    rows = [json.loads(line) for line in bases.paraphrases(base).splitlines()]
    heldout, train_sums = bases.problem_sets(base)
    texts = ["+".join(map(str, terms)) for terms in heldout]
    assert len(rows) == len(train_sums)
    assert not {row["paraphrase"] for row in rows} & {*texts}
    for row in rows:
        assert sorted(row["problem"].split("+")) == sorted(row["paraphrase"].split("+"))
    assert sum(row["problem"] == row["paraphrase"] for row in rows) < 0.01 * len(rows)
