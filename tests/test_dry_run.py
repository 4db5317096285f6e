"""The report of a dry run: the differences from base(), and the checks that were impossible."""

from ml_collections import ConfigDict

from srt_jax.config import base, source
from srt_jax.config.records import changes
from srt_jax.run.dry_run import check_servers, check_what_is_here


def test_changes_are_the_fields_that_differ():
    config = base()
    assert changes(config, base()) == []
    config.rl.kl_coef, config.levels = 0.01, ({"name": "easy"}, {"name": "hard"})
    config.data = source(kind="gym", task="chain_sum", config={"min_terms": 2})
    with config.unlocked():
        config.prompts.chat_template_kwargs.enable_thinking = False
        config.eval.sets.math500 = source(kind="set", name="math500", levels=("4", "5"))
    rows = {name: (value, other) for name, value, other in changes(config, base())}
    assert rows == {
        "data.config": ("{'min_terms': 2}", "{}"),
        "data.kind": ("'gym'", "'jsonl'"),
        "data.task": ("'chain_sum'", "''"),
        "eval.sets.math500": ("source(kind='set', levels=('4', '5'), name='math500')", "none"),
        "levels": ("easy, hard", "()"),
        "prompts.chat_template_kwargs": ("{'enable_thinking': False}", "{}"),
        "rl.kl_coef": ("0.01", "0.001"),
    }
    back = {name: (value, other) for name, value, other in changes(base(), config)}
    assert back == {name: (other, value) for name, (value, other) in rows.items()}


def of_a_hub(tmp_path, model) -> ConfigDict:
    config = base()
    config.out, config.name, config.model.path = str(tmp_path), "x", model
    config.model.dtype, config.data = "float32", source(kind="set", name="dapo")
    return config


def test_a_dry_run_offline_lists_every_check_that_it_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("SRT_JAX_DATA", raising=False)
    config = of_a_hub(tmp_path, "Qwen/Qwen2.5-Math-7B")
    config.curriculum.path, config.curriculum.steps, config.stop.validation_fraction = "labels.jsonl", 9, 0.1
    (tmp_path / "x" / "checkpoints").mkdir(parents=True)
    report = check_what_is_here(config)
    model, data, rest = report.unchecked
    assert model.startswith("weights, tokenizer and prompt lengths of model.path: Qwen/Qwen2.5-Math-7B is not on this")
    assert data.startswith("data: dapo (hub: ftajwar/deduplicated_dapo_dataset, 17,398 rows on the hub) is not on this")
    assert rest.split(", ") == [
        "labels and label files",
        "the curriculum",
        "the validation set",
        "overlap of training and evaluation data",
        "whether the run can resume",
    ]
    assert [line.partition(":")[0] for line in report.checked] == ["model", "memory"]
    unknown = check_what_is_here(of_a_hub(tmp_path, "nobody/nothing"))
    assert unknown.unchecked[0].startswith(
        "weights, tokenizer and prompt lengths, shape and memory of model.path: nobo"
    )
    assert unknown.checked == []


def test_a_dry_run_starts_and_asks_no_server(tmp_path):
    config = of_a_hub(tmp_path, "Qwen/Qwen2.5-Math-7B")
    assert check_servers(config).unchecked == check_servers(config).checked == []
    config.rollout.sampler, config.rollout.vllm.python = "vllm", str(tmp_path / "nothing")
    assert "vLLM: not on this machine: " in check_servers(config).unchecked[0]
    config.rollout.servers = ("http://host:8000",)
    assert check_servers(config).unchecked == ["vLLM: the servers http://host:8000"]
