"""Two runs that label for each other, like Co-RL (https://arxiv.org/abs/2608.17253): each learns the other one's votes.

    python examples/peers/peers.py --rounds=4 --steps=10 --samples=16 --config=srt.py:tiny --config.data.limit=256
    python examples/peers/peers.py --models cache/miniature cache/miniature-seed1 --config=srt.py:tiny ...

In each round both models answer all training problems `samples` times (srt label), and each run makes `steps` steps
whose labels are the majority votes of the other model. Co-RL lets the peers vote in each step on that step's prompts.
Here the votes are up to `steps` steps old, so keep rounds short and the problems few. The two runs have the seeds 0
and 1, and start from the models of --models, or both from the config's.

<out>/a and <out>/b are the runs, and <out>/labels-R-a.jsonl has the votes of a before round R. The same command
continues after a stop. Further arguments, such as --config.eval.every=5, go to every job.
"""

import argparse
import pathlib
import subprocess
import sys

NAMES = ("a", "b")


def job(name: str, *arguments: str) -> None:
    """Runs `python -m srt_jax NAME ...`. Exits with its status if it fails."""
    done = subprocess.run([sys.executable, "-m", "srt_jax", name, *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def label_file(out: pathlib.Path, number: int, name: str) -> pathlib.Path:
    """The file with the votes of a run's model before a round."""
    return out / f"labels-{number}-{name}.jsonl"


def play_round(options: argparse.Namespace, number: int, others: list[str]) -> None:
    """Both models vote, then both runs train on the other one's votes. number: from 0. others: further arguments."""
    out = options.out
    starts = options.models or [None, None]
    for name, seed, model in zip(NAMES, range(2), starts):
        if not label_file(out, number, name).exists():
            weights = str(out / name / "final") if number else model
            of_model = [f"--config.model.path={weights}"] if weights else []
            target = f"--out={label_file(out, number, name)}"
            job("label", *others, *of_model, f"--config.seed={seed}", f"--samples={options.samples}", target)
    for name, peer, seed, model in zip(NAMES, reversed(NAMES), range(2), starts):
        job(
            "train",
            *others,
            *([f"--config.model.path={model}"] if model else []),
            f"--config.out={out}",
            f"--config.name={name}",
            f"--config.seed={seed}",
            f"--config.steps={(number + 1) * options.steps}",
            "--config.labels.source=file",
            f"--config.labels.path={label_file(out, number, peer)}",
            "--allow_change=labels",
        )


def is_trained(out: pathlib.Path, number: int) -> bool:
    """Have both runs finished this round? Only then does either model vote for the next one."""
    return any(label_file(out, number + 1, name).exists() for name in NAMES)


def main() -> None:
    """Plays the rounds that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="steps of each run in a round")
    parser.add_argument("--samples", type=int, default=16, help="votes of a model on each problem")
    parser.add_argument("--models", nargs=2, metavar=("A", "B"), help="the models that the two runs start from")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/peers"))
    options, others = parser.parse_known_args()
    if min(options.rounds, options.steps, options.samples) < 1:
        parser.error("--rounds, --steps and --samples must be at least 1: raise them.")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out={options.out} cannot be made ({error.strerror}): name another folder.")
    for number in range(options.rounds):
        if not is_trained(options.out, number):
            play_round(options, number, others)


if __name__ == "__main__":
    main()
