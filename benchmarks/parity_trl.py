r"""Learning curves of srt_jax and of TRL's RLOOTrainer on the same work: miniature, RLOO, known answers as reward.

    python benchmarks/parity_trl.py --peer_python=TRL_ENVIRONMENT/bin/python [--out=runs/parity] [--seeds=5]

The other environment needs `pip install trl torch`. It runs parity_trl_peer.py. Each side trains the same base model,
a Hugging Face directory, and a finished seed is not trained again. The output is a table, <out>/parity.png and
<out>/parity.json.

Both sides run one algorithm. TRL 1.16 implements these details, which other versions may change:

    TRL                                                         srt_jax
    beta, KL = sum over tokens of log p_old - log p_reference   rl.kl_coef, rl.kl=k1, rl.kl_in=reward
    leave-one-out baseline of reward - beta * KL                rl.advantage=rloo
    normalize_advantages=False, reward_clip_range=None          no whitening or clipping exists for rloo
    ratio of sequence probabilities, clipped to 1 +- epsilon    ratios of tokens; both are 1 with one update per step
    mean over sequences of A * ratio, whose gradient is the     rl.loss_aggregation=seq-mean-token-sum
      mean over sequences of the sum over tokens
    old log-probs from a forward pass of the trainer            rollout.old_logprobs=trainer
    per_device_train_batch_size=128, num_generations=8          batch.prompts_per_step=16, samples_per_prompt=8
    constant learning rate, AdamW 0.9, 0.999, 1e-8              optimizer.schedule=constant, b1, b2, eps
    weight_decay=0 (TRL decays no norm weights, we do)          optimizer.weight_decay=0
    max_grad_norm=1                                             optimizer.grad_clip=1
    truncated completions are trained on                        reward.drop_truncated=False
    float32 on CPU, temperature 1, no top-p or top-k            model.dtype=float32, rollout.temperature=1

The reward of both sides is srt_jax's answer parser and grader. A seed fixes the order of the problems, which is the
same on both sides. Only the random numbers of sampling differ. Evaluations draw 16 samples of each of 128 held-out
problems with the sampler of the side. After the curves, the script takes TRL's rollouts of one step, makes srt_jax's
update from the base model on them, and compares the weights with TRL's.
"""

import argparse
import json
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np

from srt_jax import runtime

SETTINGS = {
    "steps": 50,
    "every": 10,
    "prompts_per_step": 16,
    "samples_per_prompt": 8,
    "eval_samples": 16,
    "max_response_tokens": 18,
    "kl_coef": 0.05,  # TRL's default
    "learning_rate": 2e-4,
    "threads": 1,  # of PyTorch; srt_jax has one device
}
CURVES = {
    f"eval/heldout/avg@{SETTINGS['eval_samples']}": "held-out accuracy",
    "label/true_reward": "reward of the step",
    "update/kl": "KL to the base, nats per token (k1)",
    "update/entropy": "entropy, nats per token",
}


def our_config(out: pathlib.Path, seed: int):
    """The config of srt_jax's run with this seed."""
    from srt_jax.experiments.shipped import load

    s, config = SETTINGS, load("ground_truth").get_config("tiny")
    config.update_from_flattened_dict(
        {
            "out": str(out / "srt_jax"),
            "name": f"seed{seed}",
            "seed": seed,
            "steps": s["steps"],
            "batch.prompts_per_step": s["prompts_per_step"],
            "batch.samples_per_prompt": s["samples_per_prompt"],
            "batch.max_response_tokens": s["max_response_tokens"],
            "rollout.old_logprobs": "trainer",
            "rl.kl": "k1",
            "rl.kl_coef": s["kl_coef"],
            "rl.loss_aggregation": "seq-mean-token-sum",
            "optimizer.learning_rate": s["learning_rate"],
            "optimizer.weight_decay": 0.0,
            "mesh.cpu_devices": s["threads"],
            "eval.every": s["every"],
            "eval.samples": s["eval_samples"],
            "checkpoint.every": s["steps"],
        }
    )
    config.eval.sets.heldout.limit = 0
    return config


def write_settings(out: pathlib.Path, seeds: int) -> pathlib.Path:
    """The settings file of the peer: prompts and answers of each seed in the order of srt_jax's steps."""
    from srt_jax.data.batching import batch_indices
    from srt_jax.run.prepare import prepare

    order = {}
    for seed in range(seeds):
        found = prepare(our_config(out, seed))
        indices = [
            batch_indices(len(found.problems), SETTINGS["prompts_per_step"], seed, step)
            for step in range(SETTINGS["steps"])
        ]
        order[seed] = [
            {"prompt": f"{found.problems[i].prompt}=", "answer": found.problems[i].answer}
            for i in np.concatenate(indices)
        ]
    heldout = found.eval_sets[0].problems
    settings = SETTINGS | {
        "model": str(pathlib.Path(our_config(out, 0).model.path).resolve()),
        "out": str((out / "trl").resolve()),
        "order": order,
        "heldout": {"prompts": [f"{p.prompt}=" for p in heldout], "answers": [p.answer for p in heldout]},
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / "settings.json"
    path.write_text(json.dumps(settings))
    return path


def train_ours(out: pathlib.Path, seeds: int) -> None:
    """Trains the seeds with srt_jax. A finished run is not repeated."""
    from srt_jax.train import train

    for seed in range(seeds):
        train(our_config(out, seed))


def same_step(out: pathlib.Path) -> dict[str, float]:
    """srt_jax's update from the base on the rollouts of TRL's first step, compared with TRL's.

    Returns the share of equal rewards, the cosine of the two changes of all weights, the norm of their difference
    divided by the norm of TRL's change, and KL, entropy and gradient norm of both.
    """
    from safetensors.numpy import load_file

    from srt_jax.config.resolve import on_this_machine
    from srt_jax.model import weights
    from srt_jax.run.metrics_log import read_metrics
    from srt_jax.run.prepare import prepare
    from srt_jax.run.rollouts import Collected
    from srt_jax.run.setup import compile_learner, load_initial
    from srt_jax.train import learn

    folder = out / "trl/seed0"
    config, _ = on_this_machine(our_config(out, 0))
    prepared = prepare(config)
    first = json.loads((folder / "first_step.json").read_text())
    chosen = prepared.indices(0)
    problems, prompts = [prepared.problems[i] for i in chosen], [prepared.prompts[i] for i in chosen]
    expected = [f"{problem.prompt}=" for problem in problems for _ in range(config.batch.samples_per_prompt)]
    if first["prompts"] != expected:
        raise SystemExit("TRL's first step has other problems than srt_jax's: remove the output folder and start again")
    rollouts = as_rollouts(prompts, first["completions"], config.batch.max_response_tokens, prepared.model.stop_ids)
    initial = load_initial(config, prepared)
    learner = compile_learner(config, prepared, initial, initial.state)
    with learner.grader:
        graded = [
            learner.grading(*case)
            for case in zip(problems, prompts, rollouts.responses(), rollouts.stopped, strict=True)
        ]
        collected = Collected(problems, rollouts, graded, {})
        state, values = learn(learner, initial.state, collected, 1)
    model = prepared.model
    weights.save(out / "srt_jax/after_step_1", state.params, model.hf_config, "float32", tokenizer_from=model.directory)
    base, theirs, ours = (
        load_file(pathlib.Path(path) / "model.safetensors")
        for path in (config.model.path, folder / "after_step_1", out / "srt_jax/after_step_1")
    )
    names = [name for name in ours if name in theirs and name in base]  # without the tied head
    change, other = (np.concatenate([(after[n] - base[n]).ravel() for n in names]) for after in (ours, theirs))
    logged = next(row for row in read_metrics(folder) if row["step"] == 1)
    rewards = np.concatenate([g.rewards for g in graded])
    return {
        "equal rewards": float((rewards == np.array(first["rewards"])).mean()),
        "cosine of the changes": float(change @ other / np.linalg.norm(change) / np.linalg.norm(other)),
        "difference of the changes": float(np.linalg.norm(change - other) / np.linalg.norm(other)),
    } | {
        f"{tag}, {side}": float(found[tag])
        for tag in ("update/grad_norm", "update/kl", "update/entropy")
        for side, found in (("srt_jax", values), ("TRL", logged))
    }


def as_rollouts(prompts: list, completions: list, max_tokens: int, stop_ids: tuple):
    """TRL's completions, prompt by prompt, as Rollouts. The sampler's log-probs are unknown and 0."""
    from srt_jax.rollout.sampler import Rollouts

    n = len(completions) // len(prompts)
    tokens, lengths = np.zeros((len(prompts) * n, max_tokens), np.int32), np.array([len(c) for c in completions])
    for row, completion in zip(tokens, completions):
        row[: len(completion)] = completion
    stopped = np.array([c[-1] in stop_ids for c in completions])
    shape = (len(prompts), n)
    tokens = tokens.reshape(*shape, -1)
    return Rollouts(
        prompts, tokens, lengths.reshape(shape), np.zeros(tokens.shape, np.float32), stopped.reshape(shape), 0
    )


def curves(out: pathlib.Path, seeds: int) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """{tag: {side: (steps [T], values [seeds, T])}}."""
    from srt_jax.run.metrics_log import read_metrics

    found: dict = {}
    for side in ("srt_jax", "trl"):
        records = [read_metrics(out / side / f"seed{seed}") for seed in range(seeds)]
        for tag in CURVES:
            steps = [record["step"] for record in records[0] if tag in record]
            values = [[record[tag] for record in run if tag in record] for run in records]
            found.setdefault(tag, {})[side] = np.array(steps), np.array(values)
    return found


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, half width of the 95% confidence interval of the mean by Student's t) over axis 0, the seeds."""
    from scipy import stats

    n = len(values)
    return values.mean(0), stats.t.ppf(0.975, n - 1) * values.std(0, ddof=1) / np.sqrt(n)


def compare(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, ...]:
    """Means and half widths of both sides [T], and whether each mean lies in the other side's band."""
    (mean, width), (other, other_width) = band(ours), band(theirs)
    gap = np.abs(mean - other)
    return mean, width, other, other_width, (gap <= width) & (gap <= other_width)


def table(found: dict) -> str:
    """The held-out accuracy of both sides at each evaluation, as Markdown. Differences are paired by seed."""
    sides = found[next(iter(CURVES))]
    (steps, ours), theirs = sides["srt_jax"], sides["trl"][1]
    rows = ["| step | srt_jax | TRL | difference | each mean in the other's 95% band |", "|---|---|---|---|---|"]
    paired = zip(*band(ours - theirs))
    for step, mean, width, other, other_width, inside in zip(steps, *compare(ours, theirs)):
        difference, half = next(paired)
        pairs = ((mean, width), (other, other_width))
        cells = [str(step), *(f"{value:.3f} +- {half_width:.3f}" for value, half_width in pairs)]
        cells += [f"{difference:+.3f} +- {half:.3f}", "yes" if inside else "no"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(found: dict, path: pathlib.Path) -> None:
    """A panel per metric: mean over the seeds and 95% band of the mean for both sides."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(CURVES), figsize=(4 * len(CURVES), 3.4), layout="constrained")
    for axis, (tag, title) in zip(axes, CURVES.items()):
        for (steps, values), name, color in zip(found[tag].values(), ("srt_jax", "TRL"), ("C0", "C1")):
            mean, width = band(values)
            axis.plot(steps, mean, color=color, label=name)
            axis.fill_between(steps, mean - width, mean + width, color=color, alpha=0.25, linewidth=0)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=80)


def main() -> None:
    """Trains both sides, compares them and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer_python", required=True, help="the interpreter of the environment with TRL")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/parity"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    runtime.start(our_config(options.out, 0).mesh.cpu_devices)
    settings = write_settings(options.out, options.seeds)
    peer = pathlib.Path(__file__).with_name("parity_trl_peer.py")
    subprocess.run([options.peer_python, str(peer), str(settings)], check=True)
    train_ours(options.out, options.seeds)
    found, step = curves(options.out, options.seeds), same_step(options.out)
    draw(found, options.out / "parity.png")
    print(table(found))
    print("\nThe same rollouts, one update:")
    for name, value in step.items():
        print(f"  {name}: {value:.6g}")
    text = {tag: {side: v.tolist() for side, (_, v) in sides.items()} for tag, sides in found.items()}
    (options.out / "parity.json").write_text(json.dumps({"curves": text, "one update": step}, indent=1))


if __name__ == "__main__":
    main()
