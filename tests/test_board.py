"""TensorBoard's view of a run. The tests ask TensorBoard's own data server."""

import contextlib
import html
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
from tensorboard.plugin_util import markdown_to_safe_html

from srt_jax.config import base, source
from srt_jax.run import board, metrics, metrics_log

JSON = {"Content-Type": "application/json"}


def example(directory: pathlib.Path, learning_rate: float = 1e-6, last_step: int | None = None) -> metrics_log.RunLog:
    config = base()
    config.name, config.optimizer.learning_rate = directory.name, learning_rate
    with config.eval.unlocked():
        config.eval.sets.math500 = source(path="x.jsonl")
    log = metrics_log.RunLog(directory, total_steps=9, last_step=last_step)
    log.introduce(config)
    return log


@contextlib.contextmanager
def tensorboard(folder: pathlib.Path):
    """A function that asks a running TensorBoard, which has read all runs, for JSON. Its port is one that it chose."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port=0", "--host=127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ, text=True)

    def ask(path, data=None, **query):
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"{url}data/{path}?{urllib.parse.urlencode(query)}", body, JSON)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    try:
        url = next(found[0] for line in process.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+/", line)))
        runs = {path.parent for path in folder.rglob(board.EVENT_FILES)}
        deadline = time.monotonic() + 60
        while len(ask("plugin/scalars/tags")) < len(runs):  # it reads each run in a thread of its own
            assert time.monotonic() < deadline and process.poll() is None, "TensorBoard does not show all runs"
            time.sleep(0.2)
        yield ask
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def plain(text: str) -> str:
    """The text of HTML, as a browser shows it."""
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def test_runs_have_their_folders_names_and_curves_the_documented_ones_with_their_meaning(tmp_path):
    for name, rate in (("srt", 1e-6), ("levels/one", 2e-6)):
        log = example(tmp_path / name, rate)
        log.write(0, {"eval/math500/avg@32": 0.25, "eval/math500/pass@32": 0.5})
        log.write(1, {"label/pseudo_reward": 0.5, "workers/timeouts": 0.0, "update/loss": 0.0})
        log.text("rollouts", board.table([{"problem": "1+1", "votes": "1 of 2"}]), 1)
        log.close()
    with tensorboard(tmp_path) as ask:
        assert sorted(ask("runs")) == ["levels/one", "srt"]
        tags = ask("plugin/scalars/tags")["srt"]
        assert sorted(tags) == ["eval/math500/avg@32", "eval/math500/pass@32", "label/pseudo_reward", "update/loss"]
        for tag, shown in tags.items():
            assert metrics.describe_tag(tag) in plain(shown["description"])
        assert ask("plugin/scalars/scalars", run="srt", tag="eval/math500/avg@32")[0][1:] == [0, 0.25]
        assert sorted(ask("plugin/text/tags")["srt"]) == ["curves", "rollouts"]
        page = plain(ask("plugin/text/text", run="srt", tag="curves")[-1]["text"])
        assert all(meaning in page for meaning in [*metrics.TAGS.values(), *metrics.EVAL_TAGS.values()])
        experiment = ask("plugin/hparams/experiment", data={"experimentName": ""})
        shown = {info["name"]: info for info in experiment["hparamInfos"]}
        assert set(board.ALWAYS_SHOWN) <= set(shown) | {"model.path"}
        assert shown["optimizer.learning_rate"]["differs"] and not shown["seed"].get("differs")
        charts = ask("plugin/custom_scalars/layout")["category"]
        assert [category["title"] for category in charts] == list(board.CHARTS)
        shown = [chart["multiline"]["tag"] for category in charts for chart in category["chart"]]
        points = ask("plugin/custom_scalars/scalars", run="srt", tag=next(t for t in shown if "avg@" in t[0])[0])
        assert points["regex_valid"] and list(points["tag_to_events"]) == ["eval/math500/avg@32"]


def test_every_chart_shows_documented_curves():
    """Also with several evaluation sets. The layout has the panels of `srt figures --figure=collapse`."""
    known = [
        *metrics.TAGS,
        *(f"eval/a-b.c/{name}{'@8' * (name in ('avg', 'maj', 'pass'))}" for name in metrics.EVAL_TAGS),
    ]
    patterns = [tag for charts in board.CHARTS.values() for tags in charts.values() for tag in tags]
    for pattern in patterns:
        assert any(re.fullmatch(pattern, tag) for tag in known), pattern
    collapse = ("label/pseudo_reward", "label/true_reward", "update/kl", "eval/a/kl_answer", "update/entropy")
    answers = ("label/top_answer_share", "label/answer_information", "rollout/response_tokens", "label/margin")
    for tag in (*collapse, *answers):
        assert any(re.fullmatch(pattern, tag) for pattern in patterns), tag


def test_what_was_written_after_the_checkpoint_is_forgotten(tmp_path):
    log = example(tmp_path / "run")
    for step in range(1, 6):
        log.write(step, {"label/pseudo_reward": step / 10})
    log.close()
    log = example(tmp_path / "run", last_step=3)
    log.write(4, {"label/pseudo_reward": 0.9})
    log.close()
    with tensorboard(tmp_path) as ask:
        points = ask("plugin/scalars/scalars", run="run", tag="label/pseudo_reward")
        assert [(step, round(value, 3)) for _, step, value in points] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.9)]
        assert len(ask("plugin/text/text", run="run", tag="curves")) == 1


def test_the_file_of_a_resumed_run_is_read_after_the_others(tmp_path):
    """TensorBoard sorts names as texts, and names from the same second may have any order: `9` sorts after `10`."""
    example(tmp_path).close()
    (first,) = tmp_path.glob(board.EVENT_FILES)
    last_of_this_second = tmp_path / f"events.out.tfevents.{int(time.time())}.zzz.9.9"
    first.rename(last_of_this_second)
    begun = time.monotonic()
    example(tmp_path, last_step=0).close()
    assert time.monotonic() - begun < 30  # a second, and what a busy machine adds
    assert sorted(tmp_path.glob(board.EVENT_FILES))[0] == last_of_this_second


def test_the_files_of_an_earlier_version_move_to_the_run(tmp_path):
    log = example(tmp_path)
    log.write(1, {"label/pseudo_reward": 0.5})
    log.close()
    old = tmp_path / "tensorboard"
    old.mkdir()
    written = list(tmp_path.glob("events.out.tfevents.*"))
    for path in written:
        path.rename(old / path.name)
    example(tmp_path, last_step=1).close()
    assert not old.exists() and {path.name for path in written} < {path.name for path in tmp_path.glob("events.*")}


def test_a_counter_that_stays_zero_is_no_curve(tmp_path):
    def recorded():
        return [{k: v for k, v in record.items() if k != "step"} for record in metrics_log.read_metrics(tmp_path)]

    log = example(tmp_path)
    for step, timeouts in enumerate((0, 0, 2, 0), 1):
        log.write(step, {"workers/timeouts": timeouts, "update/loss": 0})
    log.close()
    seen = [
        {"update/loss": 0},
        {"update/loss": 0},
        {"workers/timeouts": 2, "update/loss": 0},
        {"workers/timeouts": 0, "update/loss": 0},
    ]
    assert recorded() == seen
    log = example(tmp_path, last_step=4)  # continues the curve
    log.write(5, {"workers/timeouts": 0})
    log.close()
    assert recorded() == [*seen, {"workers/timeouts": 0}]


def test_hyperparameters_are_those_that_differ_and_a_few_for_all():
    config = base()
    assert set(board.hyperparameters(config)) == set(board.ALWAYS_SHOWN)
    config.name, config.out, config.batch.packing, config.rollout.prompt_buckets = "x", "y", True, (8,)
    with config.eval.unlocked():
        config.eval.sets.one = source(path="a")
        config.eval.sets.two = source(path="b")
    found = {k: v for k, v in board.hyperparameters(config).items() if k not in board.ALWAYS_SHOWN}
    assert found == {"batch.packing": True, "rollout.prompt_buckets": "(8,)", "eval.sets": "one, two"}


# ---- texts


HOSTILE = [
    "1|2",
    "a\nb",
    "<script>alert(1)</script>",
    "*x* _y_ `z` ~w~ #h [l](javascript:x)",
    r"\boxed{3} \\ \|",
    "&lt;",
    "| --- |",
    "![i](http://x/y.png)",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_shows_its_text_and_cannot_break_its_row(text):
    page = markdown_to_safe_html(board.table([{"left": text, "right": 1.0}]))
    cells = re.findall(r"<td>(.*?)</td>", page, re.DOTALL)
    assert [plain(cell) for cell in cells] == [" ".join(text.split()), "1"]
    assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td)\b)", page)


def test_long_text_keeps_its_end_where_the_answer_is():
    cell = board.table([{"response": "start " + "x" * 9000 + r" so 42"}]).splitlines()[-1]
    assert cell.startswith("| start xxx") and cell.endswith("so 42 |") and len(cell) < 520


def rollout(prompt, sample, answer, group):
    return {
        "id": prompt,
        "sample": sample,
        "problem": f"? {prompt}",
        "response": f"<{answer}>",
        "answer": answer,
        "group": group,
        "label": "7",
        "reward": float(answer == "7"),
        "true_reward": None,
        "tokens": 3,
        "stopped": sample != 3,
        "logprob": -1.23456789,
    }


def test_shown_rollouts_come_from_several_prompts_and_differ():
    answers = ("7", 0), ("7", 0), ("8", 1), (None, -1)
    rows = [rollout("a", i, *answer) for i, answer in enumerate(answers)]
    rows += [rollout("b", i, "7", 0) for i in range(4)] + [rollout("c", i, None, -1) for i in range(4)]
    shown = board.shown_rows(rows, 6)
    assert [(row["problem"], row["answer"], row["votes"]) for row in shown] == [
        ("? a", "7", "2 of 4"),
        ("? a", "8", "1 of 4"),
        ("? b", "7", "4 of 4"),
        ("? b", "7", "4 of 4"),
        ("? c", None, "0 of 4"),
        ("? c", None, "0 of 4"),
    ]
    assert list(shown[0]) == ["problem", "response", "answer", "votes", "label", "reward", "true", "tokens"]
    assert [row["problem"] for row in board.shown_rows(rows, 3)] == ["? a", "? a", "? b"]
    assert [row["problem"] for row in board.shown_rows(rows, 2, per_prompt=1)] == ["? a", "? b"]
    assert board.readable(rows[3], rows[:4])["tokens"] == "3, cut"
