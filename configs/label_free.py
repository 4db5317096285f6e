"""Label-free methods: other voters, other shapes of the vote, the confidence in tokens, and controls.

docs/algorithms.md has their equations and sources.

COMMAND   python -m srt_jax.main --config=configs/label_free.py:empo,qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/label_free.py:empo,tiny
PAPER     Each method is from a paper of its own, with SRT's batch and learning rate. The names that end in
          _like lack a part of their method (srt_jax/reward/shapes.py). self_certainty is Intuitor's reward and
          negative_entropy RENT's, with GRPO and the KL in the loss, as in these papers. The controls random, format
          and brevity show what a model gains without any information about the answers. co_rewarding_ii_like labels
          with the votes of an EMA teacher at the constant rate 0.01 of M-GRPO; Co-rewarding-II lowers its rate by a
          cosine, and its teacher is also the reference of the KL. co_rewarding_i reads the paraphrases in
          data.paraphrases, which another model has to write. It has the KL and the comparison of texts of the
          released script; half of SRT's 16 prompts are paraphrases. om_grpo_like has OM-GRPO's mask and soft votes,
          without its rewards for the format and for contrasts. certain_votes mixes the vote with Intuitor's
          reward; its weights are ours. restrain_offset_like adds RESTRAIN's penalty for prompts without a clear
          majority to restrain_like; its two constants are ours. wrong_labels is a control: the label is the most
          frequent wrong answer.
"""

from srt_jax.experiments import experiment

GRPO = {"rl.advantage": "grpo", "rl.kl_in": "loss"}
METHODS = {
    **{shape: {"reward.shape": shape} for shape in ("soft_vote", "empo", "scrl_like", "restrain_like")},
    "restrain_offset_like": {
        "reward.shape": "restrain_like",
        "labels.threshold": 0.3,
        "labels.unlabelled": "penalty",
        "labels.penalty": 0.1,
    },
    "minority_penalty": {"reward.shape": "minority_penalty", "rl.advantage": "reinforce"},  # a baseline undoes it
    **{control: {"reward.shape": control} for control in ("random", "format", "brevity")},
    "wrong_labels": {"labels.source": "wrong"},
    "self_certainty": {**GRPO, "reward.shape": "self_certainty", "rl.kl_coef": 0.005},
    **{score: {**GRPO, "reward.shape": score} for score in ("negative_entropy", "mean_logprob", "sum_logprob")},
    "certain_votes": {
        "rl.advantage": "dr_grpo",
        "rl.kl_in": "loss",
        "reward.mixture": {"agreement": 1.0, "self_certainty": 0.5},
    },
    "om_grpo_like": {**GRPO, "reward.shape": "soft_vote", "rl.mask_answer": True},
    "co_rewarding_i": {
        **GRPO,
        "labels.source": "paraphrase",
        "data.paraphrases": "runs/paraphrases.jsonl",
        "vote.match": "string",
        "reward.match": "string",
        "rl.kl_coef": 0.005,
    },
    "co_rewarding_ii_like": {**GRPO, "labels.source": "ema", "labels.ema_rate": 0.01},
}
TINY = {
    "co_rewarding_i": {"data.paraphrases": "cache/miniature/paraphrases.jsonl"},
    "restrain_offset_like": {"labels.threshold": 0.4},  # the miniature's first vote shares are about 0.4
}


def get_config(arguments: str = "soft_vote"):
    """METHOD,MODEL,DATA"""
    method, _, rest = arguments.partition(",")
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}: give one of {', '.join(METHODS)}.")
    return experiment(method, rest, METHODS[method], tiny=TINY.get(method))
