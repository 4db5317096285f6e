"""The registry of all metrics of a run, and functions of metrics.

A metric is described once, in TAGS or EVAL_TAGS. TensorBoard shows that description, and this command writes it into
the table of docs/operations.md:

    python -m srt_jax.run.metrics docs/operations.md
"""

import pathlib
import sys

from srt_jax import files
from srt_jax.config import MEAN, VALIDATION
from srt_jax.run import board

# The meaning of each tag. "True" metrics need known answers. Built-in labels and rewards use answers only if
# labels.source says so.
TAGS = {
    "label/pseudo_reward": "mean reward of the trained rollouts of labelled prompts, with the penalty for length",
    "label/agreement": "mean agreement with the label: the pseudo-reward without the penalty for length",
    "label/true_reward": "share of all voting rollouts that are right: avg@n on the training prompts",
    "label/majority_accuracy": "share of votes whose winner is right: maj@n on the training prompts",
    "label/majority_gain": "majority accuracy minus true reward: the gain that the vote can still teach",
    "label/label_accuracy": "share of labels that are right",
    "label/reward_accuracy": "1 - mean |agreement - true reward| of the trained rollouts; it can be high with "
    "wrong labels",
    "label/labelled": "share of prompts that got a label",
    "label/from_answers": "share of prompts rewarded by their known answer: 1 for ground_truth, less for mixed",
    "label/informative": "share of prompts with a label and trained rollouts whose rewards differ, apart from those "
    "that batch.resample_rounds leaves out of the loss",
    "label/vote_share": "votes of the winner / n",
    "label/vote_share_parsed": "votes of the winner / parseable answers",
    "label/ties": "share of tied votes",
    "label/parse_rate": "share of responses in which an answer is found",
    "label/distinct_answers": "number of different answers per prompt",
    "label/top_answer_share": "share of prompts with the most common winner of the step; nears 1 in a collapse",
    "label/tpr": "mean agreement of the trained rollouts that are right: true positive rate of the pseudo-reward",
    "label/fpr": "mean agreement of the trained rollouts that are wrong: false positive rate of the pseudo-reward",
    "label/youden_j": "Youden's J, tpr - fpr; learning needs it above 0",
    "label/point_biserial": "correlation of agreement and truth of the trained rollouts; missing if one is constant",
    "label/pass@n": "share of training prompts with a right one among their n rollouts",
    "label/margin": "(votes of the first answer - votes of the second) / n",
    "label/answer_information": "H(answer) - H(answer | prompt), nats; no answer counts as one; nears 0 in a collapse",
    "label/same_answer": "probability that rollouts of two prompts have the same answer; nears 1 in a collapse",
    "teacher/vote_share": "votes of the winner / the samples of the teacher (labels.source ema, guard.action teacher)",
    "teacher/true_reward": "share of the teacher's samples that are right",
    "teacher/response_tokens": "mean length of the teacher's responses",
    "teacher/step": "step of the checkpoint whose votes label the prompts; missing before the guard returns to it",
    "guard/agreement": "share of samples that equal the base's majority, on evaluation prompts of which it was sure",
    "guard/information": "H(answer) - H(answer | prompt) on the evaluation prompts, nats",
    "guard/falls": "readings in a row below the peak by more than chance; 3 raise an alarm (srt_jax/run/collapse.py)",
    "rollout/response_tokens": "mean response length, stop token included",
    "rollout/response_tokens_max": "longest response",
    "rollout/truncated": "share of responses cut at batch.max_response_tokens",
    "rollout/weights_version": "the step whose update made the weights that sampled; 0: the initial weights",
    "rollout/temperature": "the rollouts' sampling temperature",
    "rollout/rounds": "prompt batches sampled for the step; it can exceed 1 with batch.resample_rounds",
    "rollout/tokens_per_second": "sampled tokens, those of the teacher and of replaced prompts included, divided by "
    "the seconds of sampling",
    "publish/seconds": "vllm: seconds of the export for the servers",
    "publish/bytes_per_second": "vllm: bytes of the export divided by its seconds",
    "publish/reload_seconds": "vllm: seconds until all servers have loaded the export, checksums included",
    "publish/probe_seconds": "vllm: seconds of the probe, which compares log-probs of server and trainer",
    "publish/probe_gap_mean": "vllm: mean |server's - trainer's log-prob| of the probe's tokens, of the worst server",
    "publish/probe_gap_max": "vllm: largest |server's - trainer's log-prob| of the probe's tokens",
    "update/loss": "policy-gradient loss; it is near 0 because advantages sum to 0, so watch the rewards instead",
    "update/grad_norm": "global gradient norm before clipping, mean over the step's updates",
    "update/finite": "1 if every loss and gradient of the step is finite, else 0",
    "update/updated": "share of the step's updates that were made; 0 if no token counts in the loss",
    "update/entropy": "entropy of the policy per response token, nats",
    "update/kl": "estimated KL to the reference per response token, nats; not measured if rl.kl_coef is 0",
    "update/kl_per_sequence": "estimated KL to the reference summed over a response, nats",
    "update/return": "reward minus kl_coef x kl_per_sequence",
    "update/advantage_abs": "mean absolute advantage of a response token",
    "update/logprob_gap_mean": "mean |sampler's - trainer's log-prob| of the sampled tokens; only rounding, if "
    "temperatures and weights are equal",
    "update/logprob_gap_max": "largest |sampler's - trainer's log-prob| of the sampled tokens",
    "update/logprob_gap_k3": "estimated KL of the sampler to the trainer per sampled token, nats",
    "update/logprob_gap_outside": "share of sampled tokens with trainer / sampler probability outside [0.8, 1.25]",
    "update/weights_moved_bf16": "share of weights whose bfloat16 rounding the update changed; not with LoRA",
    "update/learning_rate": "learning rate of the step's last update",
    "update/clip_fraction": "share of response tokens with a clipped ratio; measured if a step makes several updates",
    "update/dual_clip_fraction": "share of response tokens with a ratio above rl.dual_clip and a negative advantage; "
    "measured if that is set",
    "update/importance_weight": "mean truncated weight trainer / sampler probability; measured if rl.tis_cap is set",
    "update/masked": "share of the trained response tokens that belong to answers; measured with rl.mask_answer",
    "update/padding": "share of the update's tokens that are padding",
    "update/mfu": "model FLOPs of the update, without padding, divided by its seconds and the devices' bfloat16 peak",
    "time/sample": "seconds of sampling, during which finished prompts are graded",
    "time/grade": "seconds of grading after the last sample",
    "time/wait": "seconds of waiting for rollouts that were sampled during the step before (rollout.steps_ahead)",
    "time/load": "seconds until the sampler has loaded the new weights",
    "time/score": "seconds of the forward pass for rewards from the policy's confidence (reward.shape)",
    "time/update": "seconds of collation and update",
    "time/log": "seconds of writing rollouts",
    "time/eval": "seconds of evaluation",
    "time/save": "seconds of writing checkpoints",
    "time/step": "seconds of the step, all phases",
    "time/compilations": "XLA compilations since the update was compiled; constant after the first checkpoint",
    "workers/graded": "answers that were compared with a known one",
    "workers/seconds": "seconds of grading, during and after sampling",
    "workers/symbolic_checks": "comparisons that needed a worker process of the grader",
    "workers/cache_hits": "comparisons whose result was cached",
    "workers/timeouts": "comparisons given up after grader.timeout seconds; they count as unequal",
    "workers/crashes": "comparisons in which a worker died",
    "workers/errors": "comparisons that raised an error",
    "workers/skipped": "comparisons left out because the time limit of a prompt was reached; they count as unequal",
    "workers/restarts": "workers that were started again",
}
# The meaning of each <metric> of the tags eval/<set>/<metric>.
EVAL_TAGS = {
    "avg": "share of right answers among the k samples, mean over problems",
    "maj": "share of problems whose majority vote over k samples is right",
    "pass": "unbiased estimate that one of k samples is right",
    "vote_share": "votes of the winner / k",
    "parse_rate": "share of responses in which an answer is found",
    "distinct_answers": "number of different answers per problem",
    "response_tokens": "mean response length",
    "truncated": "share of responses cut at batch.max_response_tokens",
    "kl": "estimated KL (k3) to the initial model per response token, nats; measured with eval.kl",
    "kl_answer": "the same on the tokens of answers",
    "kl_reasoning": "the same on all other response tokens",
}
MEAN_OF_SETS = "plain mean over the evaluation sets that have answers, without the validation set (SRT v1, Fig. 2)"
MARKDOWN_BAR = "\\|"  # a bar inside a cell of a table

TEXTS = {
    "curves": "the meaning of every curve",
    "probes": "fixed evaluation problems with one response each, at step 0 and at the last",
    "rollouts": "some responses of step 1 and of every evaluated step, with their votes and rewards",
    "warning": "faults of the set-up or the run that make it useless, with a remedy",
}
# Counters that are 0 in most runs. They are recorded from the first step at which they are not 0.
USUALLY_ZERO = tuple(tag for tag in TAGS if tag.startswith("workers/"))


def curves_page() -> str:
    """The meaning of all curves and texts as Markdown: a table for each group of tags."""
    groups = {}
    for tag, meaning in TAGS.items():
        groups.setdefault(tag.split("/")[0], []).append({"curve": tag, "meaning": meaning})
    groups["eval"] = [{"curve": f"eval/<set>/{eval_tag(name)}", "meaning": m} for name, m in EVAL_TAGS.items()]
    groups["eval"].append(
        {
            "curve": f"eval/{MEAN}/<metric>@k",
            "meaning": MEAN_OF_SETS,
        }
    )
    groups["texts"] = [{"text": tag, "meaning": meaning} for tag, meaning in TEXTS.items()]
    intro = (
        '"True" metrics need problems with known answers. Built-in labels and rewards use answers only if '
        "`labels.source` says so. The tab Custom Scalars has charts with several related curves each."
    )
    return "\n\n".join([intro, *(f"### {name}\n\n{board.table(rows)}" for name, rows in groups.items())])


MANUAL = ("<!-- metrics -->\n", "<!-- end of metrics -->\n")  # around the table in docs/operations.md


def manual_table() -> str:
    """The table of all metrics in docs/operations.md, as Markdown."""
    rows = {
        **TAGS,
        **{f"eval/<set>/{eval_tag(name)}": meaning for name, meaning in EVAL_TAGS.items()},
        f"eval/{MEAN}/<metric>@k": MEAN_OF_SETS,
    }
    lines = [f"| `{tag}` | {meaning.replace('|', MARKDOWN_BAR)} |" for tag, meaning in rows.items()]
    return "\n".join(["| tag | meaning |", "|---|---|", *lines, ""])


def with_manual_table(manual: str) -> str:
    """The text of docs/operations.md with the table as it should be."""
    before, rest = manual.split(MANUAL[0])
    return before + MANUAL[0] + manual_table() + MANUAL[1] + rest.split(MANUAL[1])[1]


def eval_tag(name: str) -> str:
    """The last part of an evaluation tag, with @k if the metric depends on the number of samples."""
    return f"{name}@k" if name in ("avg", "maj", "pass") else name


def describe_tag(tag: str) -> str:
    """The meaning of a tag, '' if unknown. Evaluation tags are `eval/<set>/<metric>` or `eval/<set>/<metric>@k`."""
    if tag.startswith("eval/"):
        meaning = EVAL_TAGS.get(tag.rsplit("/", 1)[1].partition("@")[0], "")
        return f"mean over the evaluation sets: {meaning}" if meaning and tag.startswith(f"eval/{MEAN}/") else meaning
    return TAGS.get(tag, "")


def by_set(values: dict[str, float]) -> dict[str, dict[str, float]]:
    """{set: {metric: value}} of the tags `eval/<set>/<metric>`."""
    found = {}
    for tag, value in values.items():
        if tag.startswith("eval/"):
            name, _, metric = tag.removeprefix("eval/").rpartition("/")
            found.setdefault(name, {})[metric] = value
    return found


def mean_over_sets(values: dict[str, float]) -> dict[str, float]:
    """`eval/mean/<metric>@k`: the plain mean of avg@k, maj@k and pass@k over the evaluation sets that have answers.

    SRT v1 shows it in Fig. 2. The validation set is left out, since it holds training problems. {} for fewer than two
    sets.
    """
    sets = [
        metrics
        for name, metrics in by_set(values).items()
        if name not in (MEAN, VALIDATION) and any(metric.startswith("avg@") for metric in metrics)
    ]
    if len(sets) < 2:
        return {}
    return {
        f"eval/{MEAN}/{metric}": sum(metrics[metric] for metrics in sets) / len(sets)
        for metric in sets[0]
        if "@" in metric and all(metric in metrics for metrics in sets)
    }


if __name__ == "__main__":
    page = pathlib.Path(sys.argv[1])
    files.write_file(page, with_manual_table(page.read_text()))
