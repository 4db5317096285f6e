"""Writes a run for TensorBoard: curves, texts, hyper-parameters and a page of charts, into the run's folder.

TensorBoard's own package accepts any tag, so `eval/math500/avg@32` keeps its @. Each scalar names its data class,
because TensorBoard's default data server drops the descriptions of scalars without one.
"""

import pathlib
import re
import struct
import time

import numpy as np
from ml_collections import ConfigDict
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_metadata
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util

from srt_jax.config import base
from srt_jax.files import naming

FLUSH_SECONDS = 10
EVENT_FILES = "events.out.tfevents.*"  # then the second in which the file began, host, process id, and a counter
OLD_FOLDER = "tensorboard"  # earlier versions wrote there, so TensorBoard showed the run as <name>/tensorboard
# The HParams tab shows these fields of every run, and others if they differ from the base config.
ALWAYS_SHOWN = (
    "model.path",
    "labels.source",
    "batch.prompts_per_step",
    "batch.samples_per_prompt",
    "rl.advantage",
    "rl.kl_coef",
    "optimizer.learning_rate",
    "guard.action",
    "seed",
)
# The page "Custom Scalars": charts with several curves each. Regular expressions match whole tags.
CHARTS = {
    "Does it learn?": {
        "reward, true and pseudo": ["label/pseudo_reward", "label/true_reward"],
        "labels and votes": ["label/label_accuracy", "label/majority_accuracy", "label/vote_share"],
        "generation-verification gap": ["label/majority_accuracy", "label/true_reward", "label/majority_gain"],
        "pseudo-reward of right and of wrong answers": ["label/tpr", "label/fpr", "label/youden_j"],
        "evaluation: one sample": [r"eval/.*/avg@\d+"],
        "evaluation: majority vote": [r"eval/.*/maj@\d+"],
        "evaluation: one of k samples": [r"eval/.*/pass@\d+"],
    },
    "Does it collapse?": {
        "agreement with the base's majority": ["guard/agreement"],
        "guard: readings in a row that have fallen": ["guard/falls"],
        "guard: the step to which the run returned": ["teacher/step"],
        "KL to the initial model": ["update/kl", "eval/.*/kl"],
        "KL of answer and of reasoning tokens": ["eval/.*/kl_answer", "eval/.*/kl_reasoning"],
        "most common answer of a step": ["label/top_answer_share", "label/same_answer"],
        "answer information": ["label/answer_information", "guard/information"],
        "entropy": ["update/entropy"],
        "votes, without known answers": ["label/margin", "label/vote_share", "label/ties", "eval/.*/vote_share"],
        "different answers per prompt": ["label/distinct_answers", "eval/.*/distinct_answers"],
        "prompts with a gradient, prompts with a label": ["label/informative", "label/labelled"],
    },
    "Responses": {
        "tokens": ["rollout/response_tokens", "rollout/response_tokens_max", "eval/.*/response_tokens"],
        "cut, and with an answer": ["rollout/truncated", "label/parse_rate"],
    },
}


class Board:
    """Writes event files into a run folder, so that TensorBoard gives the run the name of the folder."""

    def __init__(self, directory: pathlib.Path, purge_step: int | None = None):
        """purge_step: the first step of a resumed run; TensorBoard drops everything from this step on."""
        _move_up(directory)
        _wait_for_a_later_name(directory)
        self._path = directory / EVENT_FILES  # the writer's thread does not say which file is full
        self._writer = EventFileWriter(str(directory), flush_secs=FLUSH_SECONDS)
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=purge_step, session_log=start))

    def scalar(self, tag: str, value: float, step: int, meaning: str = "") -> None:
        """Adds a point to the curve `tag`; `meaning` is shown beside the curve."""
        metadata = scalar_metadata.create_summary_metadata(display_name=None, description=meaning)
        metadata.data_class = summary_pb2.DATA_CLASS_SCALAR
        summary = summary_pb2.Summary()
        summary.value.add(tag=tag, simple_value=value, metadata=metadata)
        self._add(summary, step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Adds a text to the Text tab."""
        self._add(text_pb(tag, markdown), step)
        self.flush()

    def image(self, tag: str, png: bytes, step: int) -> None:
        """Adds a PNG file to the Images tab."""
        width, height = struct.unpack(">II", png[16:24])  # the header of a PNG file
        summary = summary_pb2.Summary()
        image = summary_pb2.Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        summary.value.add(tag=tag, image=image)
        self._add(summary, step)

    def introduce(self, name: str, config: ConfigDict) -> None:
        """Writes hyper-parameters for the HParams tab, and the charts of the Custom Scalars tab."""
        self._add(hparams_pb(hyperparameters(config), trial_id=name), 0)
        metadata = custom_scalar_metadata.create_summary_metadata()
        layout = summary_pb2.Summary()
        layout.value.add(
            tag=custom_scalar_metadata.CONFIG_SUMMARY_TAG,
            metadata=metadata,
            tensor=tensor_util.make_tensor_proto(_layout().SerializeToString(), dtype=np.object_),
        )
        self._add(layout, 0)

    def flush(self) -> None:
        """Writes all events so far to the file."""
        with naming(self._path):
            self._writer.flush()

    def close(self) -> None:
        """Flushes everything to disk."""
        with naming(self._path):
            self._writer.close()

    def _add(self, summary, step: int) -> None:
        with naming(self._path):
            self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))


def read_scalars(directory: pathlib.Path) -> dict[int, dict[str, float]]:
    """step -> tag -> value of all scalars in a run folder's event files; what a resume made obsolete is left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    found: dict[int, dict[str, float]] = {}
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()
    for tag in events.Tags()["scalars"]:
        for point in events.Scalars(tag):
            found.setdefault(point.step, {})[tag] = point.value
    return found


def hyperparameters(config: ConfigDict) -> dict[str, str | float | bool]:
    """The config's fields that differ from base(), by dotted name, and those of ALWAYS_SHOWN; lists become text."""
    standard, here = _flat(base()), _flat(config)
    return {
        name: value if isinstance(value, (bool, int, float, str)) else str(value)
        for name, value in here.items()
        if name not in ("name", "out") and (name in ALWAYS_SHOWN or value != standard.get(name))
    }


def _flat(config: ConfigDict, prefix: str = "") -> dict:
    out = {}
    for key, value in config.items():
        if prefix + key == "eval.sets":
            out[prefix + key] = ", ".join(value)
        else:
            out |= _flat(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else {prefix + key: value}
    return out


def _layout() -> layout_pb2.Layout:
    def chart(title, tags):
        return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[f"^{t}$" for t in tags]))

    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(title=title, chart=[chart(*item) for item in charts.items()])
            for title, charts in CHARTS.items()
        ]
    )


def _move_up(directory: pathlib.Path) -> None:
    """Moves the files of an earlier version out of their own folder, so that the run keeps one name."""
    old = directory / OLD_FOLDER
    if not old.is_dir():
        return
    for path in old.iterdir():
        if not (directory / path.name).exists():
            path.rename(directory / path.name)
    if not any(old.iterdir()):
        old.rmdir()


def _wait_for_a_later_name(directory: pathlib.Path) -> None:
    """Waits, at most a second, until the name of a new event file sorts after those of the run's other ones.

    TensorBoard reads the files in the order of their names, as texts. Of two files from the same second the newer one
    may come first: a counter of 10 sorts before one of 9. What the newer one drops would then appear again.
    """
    begun = [found[1] for path in directory.glob(EVENT_FILES) if (found := re.search(r"tfevents\.(\d+)", path.name))]
    time.sleep(min(1.0, max(0.0, max(map(int, begun), default=0) + 1 - time.time())))


# ---- texts


def table(rows: list[dict]) -> str:
    """Rows with equal keys as a Markdown table. A cell is shown literally on one line, and cannot break its row."""
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *[[_cell(row[key]) for key in header] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def paragraphs(texts: list[str]) -> str:
    """Plain texts as Markdown that shows them literally."""
    return "\n\n".join(_plain(text) for text in texts)


def _plain(text: str) -> str:
    return re.sub(r"[&<>|\\`*_~#\[\]]", lambda match: f"&#{ord(match[0])};", text)


def _cell(value) -> str:
    """One line of text; long text is shortened to its start and its end, which has the answer."""
    if isinstance(value, float):
        value = f"{value:.3g}"
    text = " ".join(str("" if value is None else value).split())
    if len(text) > HEAD + TAIL:
        text = f"{text[:HEAD]} ... {text[-TAIL:]}"
    return _plain(text)


HEAD, TAIL = 200, 300  # characters of a long cell that are kept


def shown_rows(rows: list[dict], count: int, per_prompt: int = 2) -> list[dict]:
    """The readable columns of at most `count` rollouts (evaluation.rollout_rows), `per_prompt` (1 or 2) of a prompt.

    The second row of a prompt is the first response with another answer, if there is one.
    """
    by_prompt = {}
    for row in rows:
        by_prompt.setdefault(row["id"], []).append(row)
    shown = []
    for responses in list(by_prompt.values())[:count]:
        first = responses[0]
        others = [row for row in responses[1:] if row["group"] != first["group"]] or responses[1:]
        shown += [readable(row, responses) for row in (first, *others)[:per_prompt]]
    return shown[:count]


def readable(row: dict, responses: list[dict]) -> dict:
    """The columns of a rollout for people. `votes`: the number of the prompt's responses with the same answer."""
    same = sum(other["group"] == row["group"] for other in responses) if row["group"] >= 0 else 0
    return {
        "problem": row["problem"],
        "response": row["response"],
        "answer": row["answer"],
        "votes": f"{same} of {len(responses)}",
        "label": row["label"],
        "reward": row["reward"],
        "true": row["true_reward"],
        "tokens": f"{row['tokens']}{'' if row['stopped'] else ', cut'}",
    }
