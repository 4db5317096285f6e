"""The papers' data sets by name. For each, the table SETS has the repository on the Hugging Face hub and the columns.

A local file has priority: NAME.jsonl or NAME.parquet in the folder `root` of the source, or in the folder that the
environment variable SRT_JAX_DATA names. docs/data.md says how each row of this table was checked.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from srt_jax.data.base import Problem
from srt_jax.data.jsonl import jsonl_rows
from srt_jax.data.parquet import parquet_rows
from srt_jax.data.rows import problems_of, user_text
from srt_jax.errors import DataError, DataNotHereError
from srt_jax.files import download_failure

# In this branch the hub has every public data set as Parquet files: <config>/<split>/0000.parquet.
_REVISION = "refs/convert/parquet"


@dataclass(frozen=True)
class NamedSet:
    """The place of a set and the columns of its rows.

    hub, config, split: the arguments of `datasets.load_dataset(hub, config, split=split)`.
    prompt, answer: names of columns. rows: the documented number of rows on the hub; 0 if it is unknown.
    clean: turns the value in `answer` into the answer. keep: whether a row belongs to the set. A row without the column
      that decides it does, because a local file may have only the rows of the set.
    """

    hub: str
    split: str
    prompt: str = "problem"
    answer: str = "answer"
    rows: int = 0
    config: str = "default"
    clean: Callable = lambda value: value
    keep: Callable[[dict], bool] = lambda row: True


def _whole(value):
    """142.0 -> 142. The answers of AMC are integers, but the files store floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _after_hashes(value):
    """The text after `####`: GSM8K's answers are at the end of a worked solution."""
    return value.rpartition("####")[2].strip() if isinstance(value, str) else value


def _joined(value):
    """The answers of a list as one text: OlympiadBench has a list of answers for each problem."""
    return ", ".join(value) if isinstance(value, list) else value


def _until_2023(row: dict) -> bool:
    return int(row.get("Year", 0)) <= 2023


def _for_llama(row: dict) -> bool:
    """Problems that Llama-3.1-8B solves with a probability between 0.3 and 0.7 (SRT v2, B.3)."""
    rate = row.get("llama8b_solve_rate", 0.5)
    return rate is not None and 0.3 <= rate <= 0.7


def _maths(row: dict) -> bool:
    return row.get("domain", "math") == "math"


SETS = {
    # training
    "dapo": NamedSet("ftajwar/deduplicated_dapo_dataset", "train", "prompt", rows=17398),
    "dapo_easy_by_pass_rate": NamedSet("ftajwar/dapo_easy_one_third_sorted_by_pass_rate", "train", "prompt"),
    "dapo_easy_by_vote_share": NamedSet(
        "ftajwar/dapo_easy_one_third_sorted_by_frequency_of_majority_answer", "train", "prompt"
    ),
    "math12k": NamedSet("hiyouga/math12k", "train", rows=12000),
    "aime_1983_2023": NamedSet("di-zhang-fdu/AIME_1983_2024", "train", "Question", "Answer", 919, keep=_until_2023),
    "big_math_llama": NamedSet("SynthLabsAI/Big-Math-RL-Verified", "train", keep=_for_llama),
    "deepscaler": NamedSet("agentica-org/DeepScaleR-Preview-Dataset", "train"),
    "openthoughts3_math": NamedSet("open-thoughts/OpenThoughts3-1.2M", "train", "conversations", "", keep=_maths),
    "gsm8k_train": NamedSet("openai/gsm8k", "train", "question", rows=7473, config="main", clean=_after_hashes),
    # evaluation, and test-time training
    "math500": NamedSet("HuggingFaceH4/MATH-500", "test", rows=500),
    "aime24": NamedSet("Maxwell-Jia/AIME_2024", "train", "Problem", "Answer", 30),
    "aime25": NamedSet("yentinglin/aime_2025", "train", rows=30),
    "amc23": NamedSet("zwhe99/amc23", "test", "question", rows=40, clean=_whole),
    "amc83": NamedSet("AI-MO/aimo-validation-amc", "train", rows=83, clean=_whole),
    "gsm8k": NamedSet("openai/gsm8k", "test", "question", rows=1319, config="main", clean=_after_hashes),
    "minerva": NamedSet("math-ai/minervamath", "test", "question", rows=272),
    "olympiadbench": NamedSet(
        "Hothan/OlympiadBench", "train", "question", "final_answer", 674, config="OE_TO_maths_en_COMP", clean=_joined
    ),
}


def load_set(config) -> list[Problem]:
    """Problems of the set `config["name"]`, in the order of its rows. Each distinct prompt is read once.

    Ids are hashes of the prompts, so a problem has the same id in a local file and on the hub. `problems_of` explains
    `limit` and `levels`. A local file may have the hub's columns, the columns `problem` and `answer`, or verl's format.
    Raises DataError for an unknown name, and DataNotHereError if the set is not local and cannot be downloaded.
    """
    name = config["name"]
    named = _named(name)
    files = find(config) or _download(name, named)
    rows = itertools.chain.from_iterable(_read(file) for file in files)
    columns = {key: config[key] for key in ("limit", "levels", "level_column", "labelled_column") if config.get(key)}
    return problems_of(_distinct(_standard(row, named) for row in rows if named.keep(row)), name, columns, "row")


def find(config) -> list[Path]:
    """A list with the set's file in `root` or $SRT_JAX_DATA. The list is empty if there is no such file."""
    folder = config.get("root") or os.environ.get("SRT_JAX_DATA", "")
    names = [Path(folder).expanduser() / f"{config['name']}.{ending}" for ending in ("jsonl", "parquet")]
    return [path for path in names if folder and path.is_file()][:1]


def describe(config) -> str:
    """The name of the set and its place, e.g. `dapo (hub: ftajwar/..., 17,398 rows on the hub)`."""
    named = _named(config["name"])
    where = ", ".join(map(str, find(config))) or f"hub: {named.hub}"
    rows = f", {named.rows:,} rows on the hub" if named.rows else ""
    return f"{config['name']} ({where}{rows})"


def _named(name: str) -> NamedSet:
    if name not in SETS:
        raise DataError(f"data source `name` is {name!r}: set it to one of {', '.join(SETS)}.")
    return SETS[name]


def _download(name: str, named: NamedSet) -> list[Path]:
    """The Parquet files of the set, from the hub or its local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    folder = f"{named.config}/{named.split}"
    try:
        copy = snapshot_download(
            named.hub, repo_type="dataset", revision=_REVISION, allow_patterns=[f"{folder}/*.parquet"]
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise DataNotHereError(
            f"the data set {name!r} ({named.hub} on the hub) could not be downloaded ({download_failure(error)}): "
            f"go online, or put {name}.jsonl or {name}.parquet into a folder and name it in `root` or in SRT_JAX_DATA."
        ) from None
    files = sorted((Path(copy) / folder).glob("*.parquet"))
    if not files:
        raise DataNotHereError(
            f"{named.hub} has no Parquet files in {folder} of its branch {_REVISION}: put {name}.jsonl "
            "or its Parquet file into a folder and name it in `root` or in SRT_JAX_DATA."
        )
    return files


def _read(file: Path) -> Iterator[dict]:
    read = jsonl_rows if file.suffix == ".jsonl" else parquet_rows
    return (row for _, row in read(file))


def _standard(row: dict, named: NamedSet) -> dict:
    """The row with the additional columns `problem` and `answer`, and without its id."""
    if "reward_model" in row:
        return {**row, "id": None}
    if named.prompt in row:
        row = {**row, "problem": user_text(row[named.prompt]), "answer": row.get(named.answer)}
    return {**row, "id": None, "answer": named.clean(row.get("answer"))}


def _distinct(rows: Iterator[dict]) -> Iterator[tuple[int, dict]]:
    """Numbered rows without those that repeat an earlier prompt. OpenThoughts3 has each question 16 times."""
    seen = set()
    for number, row in enumerate(rows, 1):
        prompt = user_text(row.get("problem", row.get("prompt")))
        if prompt not in seen:
            seen.add(prompt)
            yield number, row
