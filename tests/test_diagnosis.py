"""Warnings about a set-up that looks wrong: on constructed metrics, on recorded runs, and in a real run."""

import pytest

from srt_jax.config import base
from srt_jax.jobs.evaluate import evaluate_model
from srt_jax.run.collapse import Detector
from srt_jax.run.diagnosis import STEPS_ALIKE, Diagnosis, alike_warning, cut_warning, fitting_style, parse_warning
from srt_jax.run.metrics_log import read_metrics
from srt_jax.train import train
from tests.helpers import small_config
from tests.test_collapse import records

WELL = {
    "label/parse_rate": 0.9,
    "rollout/truncated": 0.1,
    "label/informative": 0.8,
    "label/labelled": 1.0,
    "label/pseudo_reward": 0.6,
}
WRITTEN = {
    "boxed": r"so \boxed{4}",
    "hash": "so\n#### 4",
    "answer_tag": "<answer>4</answer>",
    "final_answer": "The final answer is 4.",
}


def diagnosis(**fields):
    config = base()
    config.update_from_flattened_dict(fields)
    return Diagnosis(config, ["<eos>"])


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("style", WRITTEN)
def test_the_style_that_fits_is_named(style, written):
    responses = [WRITTEN[written]] * 9 + ["I do not know"]
    found = fitting_style(responses, style)
    assert found == (None if style == written else (written, 0.9))
    if style != written:
        text = parse_warning(0.02, 0.0, style, lambda: responses)
        assert f"answer.style={style!r} finds an answer in only 2%" in text
        assert f"answer.style={written!r} would find one in 90%" in text


def test_where_no_style_fits_the_prompt_is_to_blame():
    text = parse_warning(0.0, 0.0, "boxed", lambda: ["4", "it is four"])
    assert "in none of the responses" in text and "prompts.instruction" in text and "answer_tag" in text
    assert parse_warning(0.0, 0.0, "boxed") == text  # without responses at hand
    assert fitting_style([], "boxed") is None


def test_responses_are_not_looked_at_where_they_have_answers():
    def texts():
        raise AssertionError

    assert parse_warning(0.1, 0.0, "boxed", texts) is None
    assert diagnosis().update(WELL, None, texts) == []


def test_cut_responses_have_a_warning_of_their_own_which_explains_missing_answers():
    assert cut_warning(0.5, 100, ["<eos>"]) is None
    text = cut_warning(0.87, 100, ["<eos>", "<|im_end|>"])
    assert text.startswith("87% of the responses are cut at batch.max_response_tokens=100") and "'<|im_end|>'" in text
    found = diagnosis().update({**WELL, "label/parse_rate": 0.0, "rollout/truncated": 0.99}, None, lambda: ["and so"])
    assert len(found) == 1 and found[0].startswith("99% of the responses are cut")


def test_evaluations_count_and_each_kind_is_said_once():
    d = diagnosis()
    sets = {"eval/a/parse_rate": 0.9, "eval/a/truncated": 0.0, "eval/b/parse_rate": 0.01, "eval/b/truncated": 0.7}
    texts = d.update(sets, None, lambda: ["#### 4"])
    assert ["hash" in text for text in texts] == [True, False] and "70%" in texts[1]
    assert d.update(sets) == d.update({**WELL, "label/parse_rate": 0.0, "rollout/truncated": 1.0}) == []


@pytest.mark.parametrize(
    ("changed", "remedy"),
    [
        ({"label/labelled": 0.0, "label/pseudo_reward": 0.0}, "Lower labels.threshold (0.9)"),
        ({"label/pseudo_reward": 1.0}, "Take harder problems"),
        ({"label/pseudo_reward": 0.0}, "Take easier problems"),
        ({"label/pseudo_reward": 0.5}, "samples_per_prompt"),
        ({"label/pseudo_reward": 0.0, "label/agreement": 1.0}, "Take harder problems"),  # all cut, and so penalised
    ],
)
def test_rewards_that_are_all_alike_are_said_after_some_steps(changed, remedy):
    d = diagnosis(**{"labels.threshold": 0.9})
    dull = {**WELL, "label/informative": 0.0, **changed}
    for metrics in [dull] * (STEPS_ALIKE - 1) + [WELL] + [dull] * (STEPS_ALIKE - 1):
        assert d.update(metrics) == []
    (text,) = d.update(dull)
    assert text == alike_warning(dull, d.config) and remedy in text
    assert d.update(dull) == []


@pytest.mark.parametrize(
    ("fields", "reward", "said"),
    [
        ({}, 0.5, True),
        ({"rl.advantage": "grpo"}, 1.0, True),
        ({"rl.advantage": "reinforce_pp_baseline"}, 0.5, True),
        ({"rl.advantage": "reinforce_baseline"}, 0.5, False),  # prompts differ from each other: that is a gradient
        ({"rl.advantage": "reinforce_baseline"}, 1.0, True),
        ({"rl.advantage": "reinforce_pp"}, 0.0, True),
        ({"rl.advantage": "reinforce"}, 1.0, False),
        ({"rl.advantage": "reinforce"}, 0.0, True),
        ({"labels.unlabelled": "penalty", "labels.penalty": 0.1}, 0.5, True),
        ({"rl.objective": "cross_entropy", "labels.source": "none"}, 1.0, False),
        ({"rl.objective": "entropy"}, 1.0, False),
    ],
)
def test_only_where_alike_rewards_teach_nothing(fields, reward, said):
    d = diagnosis(**fields)
    dull = {**WELL, "label/informative": 0.0, "label/pseudo_reward": reward}
    assert bool([text for _ in range(STEPS_ALIKE) for text in d.update(dull)]) is said


def test_prompts_without_a_label_teach_if_they_are_penalised():
    d = diagnosis(**{"labels.unlabelled": "penalty", "labels.penalty": 0.1})
    dull = {**WELL, "label/informative": 0.0, "label/labelled": 0.5}
    assert not [text for _ in range(STEPS_ALIKE) for text in d.update(dull)]
    (text,) = [text for _ in range(STEPS_ALIKE) for text in d.update({**dull, "label/labelled": 0.0})]
    assert "no prompt has a label, so every response is penalised. Lower labels.threshold" in text


def test_missing_answers_explain_alike_rewards():
    d = diagnosis()
    broken = {**WELL, "label/parse_rate": 0.0, "label/informative": 0.0, "label/labelled": 0.0}
    assert len([text for _ in range(9) for text in d.update(broken)]) == 1


def test_a_collapse_is_said_once_whether_or_not_it_ends_the_run():
    for action, part in (("off", "guard.action='stop' ends such a run"), ("stop", "The run ends here")):
        detector, d = Detector(), diagnosis(**{"guard.action": action})
        texts = [text for metrics in records("late") for text in d.update(metrics, detector.update(metrics))]
        assert len(texts) == 1 and "the vote seems to collapse" in texts[0] and part in texts[0]
        assert "KL to the initial model jumped" in texts[0]


def test_a_run_on_known_answers_is_not_told_about_votes():
    detector, d = Detector(), diagnosis(**{"labels.source": "ground_truth"})
    (text,) = [text for metrics in records("late") for text in d.update(metrics, detector.update(metrics))]
    assert text.startswith("signs of a collapse, although the labels are known answers: the KL to the initial model ")
    assert "vote" not in text and "lower optimizer.learning_rate" in text


def test_a_healthy_run_is_left_alone():
    detector, d = Detector(), diagnosis()
    for metrics in [*records("healthy"), *([WELL] * 50)]:
        assert d.update(metrics, detector.update(metrics)) == []


def test_fed_the_log_again_it_does_not_repeat_itself():
    detector, d = Detector(), diagnosis()
    for metrics in records("late"):
        d.update(metrics, detector.update(metrics))
    assert d.said == {"collapse"} and d.update({}, "again") == []


def test_a_style_that_fitted_truncated_responses_is_not_named_again_after_a_resume():
    """The responses, which decided between this warning and the one about their length, are not in the log."""
    cut = {**WELL, "label/parse_rate": 0.0, "rollout/truncated": 0.9}
    before, after, other = diagnosis(), diagnosis(), diagnosis()
    said = before.update(cut, responses=lambda: [WRITTEN["hash"]])
    assert len(said) == 2 and "answer.style='hash' would find one" in said[0]
    after.repeat({"step": 1, **cut, "warning": "\n".join(said)})
    assert after.said == before.said and after.update(cut, responses=lambda: [WRITTEN["hash"]]) == []
    other.repeat({"step": 1, **cut, "warning": said[1]})
    assert other.said == {"cut"}


def test_a_real_run_with_the_wrong_answer_style_says_so_once(miniature, tmp_path, capfd):
    config = small_config(miniature, tmp_path, name="wrong", steps=1)
    config.answer.style = "hash"
    train(config)
    config.steps = 2
    train(config)  # it resumes, and reports nothing new
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(said) == 1
    assert "answer.style='hash' finds an answer in none of the responses; answer.style='boxed' would" in said[0]
    assert [record.get("warning") for record in read_metrics(tmp_path / "wrong")] == [said[0][9:], None, None]


def test_an_evaluation_with_the_wrong_answer_style_says_so_once(miniature, tmp_path, capfd):
    config = small_config(miniature, tmp_path, name="wrong", steps=1)
    config.answer.style = "hash"
    with config.eval.unlocked():
        config.eval.sets.again = config.eval.sets.heldout
    evaluate_model(config, None)
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(said) == 1 and said[0].startswith("warning: ") and "answer.style='boxed' would find one in" in said[0]
