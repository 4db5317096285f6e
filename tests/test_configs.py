"""Every config, with each model and each data set at least once, passes what --dry_run checks; offline, in one process.

Sizes of generated data are cut, and files that other jobs write first (labels, subsets) are stood in for.
"""

import json
import re
import runpy
import sys

import huggingface_hub.constants
import pytest
from absl import flags
from ml_collections import config_flags

from srt_jax.config import base, describe
from srt_jax.config.levels import checkable, level_configs
from srt_jax.config.records import changes
from srt_jax.config.resolve import resolve
from srt_jax.config.validation import validate, validate_devices
from srt_jax.data.base import Problem
from srt_jax.data.prompts import Prompts
from srt_jax.experiments import load
from srt_jax.experiments.data import SETS
from srt_jax.experiments.models import BOXED, MODELS
from srt_jax.grading.grader import Grader
from srt_jax.reward.labels import LabelSettings
from srt_jax.reward.rewards import grade
from srt_jax.run.dry_run import check
from tests.helpers import REPOSITORY

CONFIGS = REPOSITORY / "configs"
LEVELS = load("climb").LEVELS
ALGORITHMS = load("rl").ALGORITHMS
VARIANTS = load("sept_variants").VARIANTS
METHODS = sorted(file.stem for file in CONFIGS.glob("*.py"))
FIGURES = load("figures").FIGURES
ARGUMENTS = {
    "quickstart": [*load("quickstart").ARMS],
    "srt": [
        "",
        "tiny",
        "tiny_lora",
        "qwen25_math_7b_lora,dapo",
        *(f"{model},dapo" for model in MODELS if model != "tiny"),
        *(f"qwen25_math_7b,{data}" for data in SETS),
    ],
    "rl": [f"{algorithm}{rest}" for algorithm in ALGORITHMS for rest in ("", ",tiny")],
    "label_free": [f"{method}{rest}" for method in load("label_free").METHODS for rest in ("", ",tiny")],
    "sept_variants": [f"{variant}{rest}" for variant in VARIANTS for rest in ("", ",tiny")],
    "reasoning_gym": [
        f"{labels}{rest}"
        for labels in ("ground_truth", "vote", "fixed_teacher")
        for rest in (
            "",
            ",tiny",
            ",qwen3_4b,chain_sum_3",
            ",qwen3_4b,number_sorting_4",
            ",qwen3_4b,leg_counting_3",
            ",qwen3_4b,boxed_bitwise_arithmetic_2",
        )
    ],
    "climb": ["", "tiny", "qwen3_4b,boxed_knights_knaves", *(f"qwen3_4b,{task}" for task in LEVELS if task != "sums")],
    "figures": [
        f"{name},{curve}{rest}" for name, figure in FIGURES.items() for curve in figure.curves for rest in ("", ",tiny")
    ],
}


def get_config(module: str, arguments: str):
    function = load(module).get_config
    return function(arguments) if arguments else function()


def all_runs():
    for module in METHODS:
        for arguments in ARGUMENTS.get(module, ["", "tiny"]):
            yield module, arguments


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory, miniature):
    """{beginning of a path that another job writes: a file that stands for it}."""
    folder = tmp_path_factory.mktemp("files")
    rows = [json.loads(line) for line in (miniature / "train.jsonl").read_text().splitlines()]
    (folder / "easy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:600]))
    from srt_jax.data.rows import prompt_id

    labels = (
        {"id": prompt_id(row["problem"]), "label": row["answer"], "vote_share": 0.5, "pass_rate": 0.5} for row in rows
    )
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    return {
        "data.path": folder / "easy.jsonl",
        "labels.path": folder / "labels.jsonl",
        "curriculum.path": folder / "labels.jsonl",
    }


@pytest.fixture(autouse=True)
def offline(monkeypatch, miniature):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("SRT_JAX_DATA", raising=False)
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize(("module", "arguments"), list(all_runs()))
def test_dry_run(module, arguments, stand_ins, tmp_path):
    config = get_config(module, arguments)
    assert changes(config, base())  # the first table of the report
    if config.model.path.startswith("runs/"):  # another run exports it
        config.model.path = "Qwen/Qwen3-4B-Base"
    config.out = str(tmp_path)  # the checkout may have runs of this name
    for level in level_configs(config) or [config]:
        shrink(level)
        for field, file in stand_ins.items():
            section, _, key = field.partition(".")
            if level[section][key].startswith("runs/"):
                level[section][key] = str(file)
        on_node, _ = resolve(level, "gpu", 8)
        validate(on_node)
        validate_devices(on_node, 8)
        report = check(checkable(resolve(level, "cpu", 8)[0], config))
        assert any(line.startswith("model: ") for line in report.checked), report
        assert not report.unchecked or level.model.path != "cache/miniature", report
        assert "updates" in describe(level, 8) or "1 update;" in describe(level, 8)


def shrink(config):
    """Problems that are generated: a step's worth, so that 150 configs take seconds."""
    for source, size in [
        (config.data, config.batch.prompts_per_step),
        *((judge, 2) for judge in config.eval.sets.values()),
    ]:
        if source.kind == "gym":
            source.size = size


@pytest.mark.parametrize("module", METHODS)
def test_docstring_gives_command_and_outcome(module):
    text = load(module).__doc__
    assert "\nCOMMAND " in text and f"--config=configs/{module}.py" in text
    assert "\nPAPER " in text or "\nEXPECT " in text or module == "figures"


@pytest.mark.parametrize("name", FIGURES)
def test_the_docs_have_the_row_of_every_figure(name):
    figure = FIGURES[name]
    row = f"| {figure.where} | `{name}`: {', '.join(figure.curves)} | {figure.shows}. {figure.paper} |"
    assert row in (REPOSITORY / "docs" / "experiments.md").read_text(), f"docs/experiments.md needs this row: {row}"


def test_a_figure_without_a_curve_is_its_first_one():
    config = get_config("figures", "v1_fig2")
    assert (config.out, config.name) == ("runs/v1_fig2", "srt_dapo")
    assert config.to_dict() == get_config("figures", "v1_fig2,srt_dapo").to_dict()


def test_dual_clip_is_on_where_the_reproduced_code_has_it_and_makes_several_updates():
    with_it = {"ttrl", "figures:ttrl,aime", "figures:ttrl,amc", "figures:sept_ablations,grpo", "sept_variants:grpo"}
    for module, arguments in {(name.partition(":")[0], name.partition(":")[2]) for name in with_it} | {
        ("figures", "ttrl,aime_7b"),
        ("srt", ""),
        ("rl", "ppo_clip"),
        ("rl", "dapo"),
        ("sept", ""),
        ("em_ft", ""),
        ("reasoning_gym", "vote"),
    }:
        on = f"{module}:{arguments}".rstrip(":") in with_it
        assert get_config(module, arguments).rl.dual_clip == (3.0 if on else 0.0), (module, arguments)


@pytest.mark.parametrize("method", ["srt", "ttrl", "sept", "em_ft", "sept_variants"])
@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_asked_for_a_box(model, method):
    prompts = get_config(method, {"sept_variants": "grpo,"}.get(method, "") + model).prompts
    Prompts.of(prompts.to_dict())
    by_template = method == "ttrl" and model.startswith("qwen25_math")
    assert ("boxed" in prompts.instruction + prompts.system) is (model != "tiny" and not by_template)


@pytest.mark.parametrize(
    ("module", "arguments", "rate", "temperature", "samples"),
    [
        ("srt", "llama31_8b_instruct,big_math_llama", 1e-7, 0.0, 1),
        ("ground_truth", "deepseek_math_7b_instruct,math12k", 1e-7, 0.7, 32),
        ("ttrl", "llama31_8b_instruct", 5e-7, 0.6, 16),
        ("sept_variants", "offline,llama31_8b_instruct", 1e-5, 1.0, 32),
        ("figures", "sept_main,llama", 1e-7, 1.0, 32),
        ("figures", "sept_main,deepseek", 1e-7, 1.0, 32),
    ],
)
def test_a_model_s_numbers_in_srt_s_runs_are_not_those_of_other_methods(module, arguments, rate, temperature, samples):
    config = get_config(module, arguments)
    assert (config.optimizer.learning_rate, config.eval.temperature, config.eval.samples) == (
        rate,
        temperature,
        samples,
    )


@pytest.mark.parametrize(
    ("module", "before", "data"),
    [
        ("srt", "llama31_8b_instruct", ",big_math_llama"),
        ("ttrl", "llama31_8b_instruct", ""),
        ("sept_variants", "offline,llama31_8b_instruct", ""),
        ("srt", "tiny", ""),
    ],
)
def test_a_model_with_lora_trains_adapters_at_ten_times_the_rate(module, before, data):
    plain, config = get_config(module, before + data), get_config(module, f"{before}_lora{data}")
    assert config.name != plain.name and config.model.path == plain.model.path
    assert config.optimizer.learning_rate == pytest.approx(10 * plain.optimizer.learning_rate)
    assert (config.model.lora.rank, config.mesh.fsdp) == (8 if before == "tiny" else 32, 1)
    assert config.eval == plain.eval and config.prompts == plain.prompts


THREE = {"aime24", "aime25", "amc23"}


@pytest.mark.parametrize(
    ("figure", "data", "sets"),
    [
        ("v1_fig2", "dapo", THREE),
        ("v1_fig2", "math12k", THREE),
        ("v1_fig2", "aime", THREE),
        ("v1_fig10_12", "dapo", THREE),
        ("v1_fig10_12", "math12k", THREE | {"math500"}),
        ("v1_fig10_12", "aime", THREE),
        *(("v1_fig13_15", data, THREE | {"math500"}) for data in ("dapo", "math12k", "aime")),
    ],
)
def test_a_figure_has_the_paper_s_test_sets(figure, data, sets):
    for method in ("srt", "ground_truth"):
        assert set(get_config("figures", f"{figure},{method}_{data}").eval.sets) == sets


def test_figures_3_and_4_of_srt_v2_evaluate_math500_with_32_samples_or_greedily():
    for curve in FIGURES["v2_fig3_4"].curves:
        config = get_config("figures", f"v2_fig3_4,{curve}")
        assert "math500" in config.eval.sets
        assert (config.eval.samples, config.eval.temperature > 0) == ((1, False) if "llama" in curve else (32, True))


@pytest.mark.parametrize(
    ("run", "prompts", "updates", "samples", "votes", "max_prompt", "steps", "warmup"),
    [
        # PRIME-RL/TTRL: verl/examples/ttrl/aime.sh, amc.sh, issue 11
        ("qwen25_math_1_5b,test_aime24", 8, 8, 32, 64, 512, 240, 7),
        ("qwen25_math_1_5b,test_amc83", 8, 8, 32, 64, 1024, 300, 9),
        ("qwen25_math_1_5b,test_math500", 32, 32, 32, 64, 1024, 150, 4),
        # tag OpenRLHF, code/scripts/ttrl_{aime,amc,math}_grpo_7b.sh
        ("aime_7b", 16, 16, 16, 64, 1024, 60, 3),
        ("amc_7b", 64, 64, 16, 64, 1024, 50, 2),
        ("math_7b", 128, 128, 16, 32, 1024, 120, 5),
    ],
)
def test_ttrl_s_batches_are_those_of_its_scripts(run, prompts, updates, samples, votes, max_prompt, steps, warmup):
    config = get_config("ttrl", run) if "," in run else get_config("figures", f"ttrl,{run}")
    b = config.batch
    assert (b.prompts_per_step, b.minibatches_per_step, b.samples_per_prompt) == (prompts, updates, samples)
    assert (b.votes_per_prompt, b.max_prompt_tokens) == (votes, max_prompt)
    assert (config.steps, config.optimizer.warmup_steps) == (steps, warmup)


def test_ttrl_s_previews_have_no_kl_and_the_optimizer_of_their_code():
    for curve, epochs, problems in (("aime_7b", 60, 30), ("amc_7b", 50, 83), ("math_7b", 40, 500)):
        config = get_config("figures", f"ttrl,{curve}")
        o, e = config.optimizer, config.eval
        assert config.rl.kl_coef == 0 and (o.b1, o.b2, o.weight_decay, o.learning_rate) == (0.9, 0.95, 0.0, 5e-7)
        assert (o.schedule, o.final_fraction) == ("cosine", 0.1)
        assert o.schedule_steps == pytest.approx(epochs * problems / config.batch.prompts_per_step, abs=0.5)
        assert config.steps == epochs * (problems // config.batch.prompts_per_step)  # the loader drops the rest
        assert (e.every, e.temperature, e.samples) == (1, 0.0, 1)


QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


@pytest.mark.parametrize(
    ("model", "temperature", "system", "in_user_turn"),
    [
        ("qwen25_math_7b", 0.6, BOXED, False),
        ("deepseek_math_7b_instruct", 0.6, "", True),
        ("qwen25_7b", 0.9, BOXED, False),
        ("qwen25_7b_instruct", 0.9, QWEN, True),
        ("llama31_8b_instruct", 0.9, "", True),
        ("smollm2_1_7b", 0.9, "", True),
        ("smollm2_1_7b_instruct", 0.9, "", True),
    ],
)
def test_sept_asks_and_samples_each_model_as_its_paper_does(model, temperature, system, in_user_turn):
    """SePT, B.1 and figure 4, in every config of it: only SePT itself samples colder than at 1."""
    sept = get_config("sept", f"{model},deepscaler")
    assert (sept.steps, sept.rollout.temperature_steps) == (3 * (40315 // 128), 2 * (40315 // 128))  # whole steps only
    for config, expected in [
        (sept, temperature),
        (get_config("sept_variants", f"constant,{model}"), temperature),
        (get_config("sept_variants", f"offline,{model}"), temperature),
        (get_config("sept_variants", f"coupled,{model}"), 1.0),
        (get_config("sept_variants", f"grpo,{model}"), 1.0),
        (get_config("em_ft", model), 1.0),
    ]:
        assert (config.rollout.temperature, config.prompts.system) == (expected, system), config.name
        assert config.prompts.instruction == (BOXED if in_user_turn else "")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("reasoning_gym", "vote,qwen3_4b,boxed_family_relationships_4"), ("climb", "qwen3_4b,boxed_family_relationships")],
)
def test_the_authors_variant_of_reasoning_gym_asks_for_a_box(module, arguments):
    config = get_config(module, arguments)
    for level in level_configs(config) or [config]:
        assert level.prompts.instruction == r"Let's think step by step and output the final answer within \boxed{}."
        assert (level.answer.style, level.data.task) == ("boxed", "family_relationships")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("reasoning_gym", "vote,qwen3_4b,bitwise_arithmetic_2"), ("climb", "qwen3_4b,knights_knaves")],
)
def test_votes_on_reasoning_gym_compare_texts(module, arguments):
    config = get_config(module, arguments)
    for level in level_configs(config)[1:] or [config]:  # the first one has answers
        with Grader(workers=1, match=level.vote.match) as grader:
            graded = grade(Problem("a", "?", None, "gym"), ["0xbeb", "0xcdc", "0xcdc"], grader, LabelSettings.of(level))
        assert graded.label.text == "0xcdc" and graded.rewards.tolist() == [0, 1, 1]


@pytest.mark.parametrize("task", ["knights_knaves", "bitwise_arithmetic", "family_relationships"])
def test_the_fixed_teacher_starts_where_the_evolving_one_does(task):
    first, second = level_configs(get_config("figures", f"v2_fig2,{task}"))
    assert first.steps == (950 if task == "bitwise_arithmetic" else 500)  # SRT v2, B.3
    fixed = get_config("figures", f"v2_fig2,{task}_fixed")
    assert (first.labels.source, second.labels.source, fixed.labels.source) == ("ground_truth", "vote", "file")
    fixed.labels = second.labels
    fixed.name, fixed.out = second.name, second.out
    assert fixed.to_dict() == second.to_dict()


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("srt", "gpt5,dapo", "there is no model 'gpt5'"),
        ("srt", "tiny,mnist", "there is no data 'mnist'"),
        ("srt", "tiny,sums,3", "too many parts: give MODEL,DATA"),
        ("rl", "ppo", "there is no algorithm 'ppo'"),
        ("figures", "v1_fig2,srt_mnist", "v1_fig2 has the curves srt_dapo"),
        ("figures", "v1_fig2,srt_dapo,small", "give v1_fig2,CURVE or v1_fig2,CURVE,tiny, not 'v1_fig2,srt_dapo,small'"),
        ("figures", "v1_fig2,srt_dapo,tiny,3", "v1_fig2 has the curves srt_dapo"),
        ("figures", "v1_fig1", "there is no figure 'v1_fig1': give FIGURE,CURVE with FIGURE one of v1_fig2"),
        ("figures", "", "there is no figure ''"),
    ],
)
def test_wrong_arguments_are_told(module, arguments, message):
    with pytest.raises(ValueError, match=message):
        get_config(module, arguments)


def test_docs_name_every_config():
    text = (REPOSITORY / "docs" / "experiments.md").read_text()
    for module in METHODS:
        path = f"configs/{module}.py"
        assert path in text, path


def test_the_study_of_the_miniature_has_every_experiment():
    """A figure's curve whose miniature is another run's need not be there a second time."""

    def contents(module, arguments):
        fields = json.loads(get_config(module, arguments).to_json_best_effort())
        return json.dumps({key: fields[key] for key in fields if key not in ("name", "out")}, sort_keys=True)

    experiments = runpy.run_path(str(REPOSITORY / "studies" / "tiny.py"))["EXPERIMENTS"]
    listed = [(module, f"{rest},tiny".lstrip(",")) for module, _, rest in (x.partition(":") for x in experiments)]
    run = {contents(module, arguments) for module, arguments in listed}
    missing = {
        f"{module}:{arguments}"
        for module, arguments in all_runs()
        if arguments.split(",")[-1] == "tiny" and contents(module, arguments) not in run
    }
    assert len(run) == len(listed) and not missing


@pytest.mark.parametrize(("script", "num_devices"), [("h200_node", 4), ("slurm", 16), ("tpu_pod", 64)])
def test_the_example_of_a_launch_script_fits_its_machine(script, num_devices, monkeypatch):
    text = (REPOSITORY / "launch" / f"{script}.sh").read_text()
    comments = " ".join(re.findall(r"^#(?!!)(.*?)\\?$", text, re.MULTILINE))
    fields = re.findall(r"--config\.[\w.]+=[^\s']+", comments)
    assert "configs/srt.py" in comments and len(fields) >= 1
    if script == "h200_node":  # the script itself adds these
        fields = ["--config.mesh.fsdp=4", "--config.rollout.sampler=vllm", *fields]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    monkeypatch.setattr("sys.argv", ["main", f"--config={CONFIGS}/srt.py", *fields])  # it is also read from there
    values(sys.argv)
    validate(values.config)
    validate_devices(values.config, num_devices)
