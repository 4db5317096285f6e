"""Runs that train adapters: their exports, resumed, evaluated, replayed, and started from an adapter."""

import json
import shutil

import numpy as np
import pytest

from srt_jax.config.levels import level_configs
from srt_jax.config.validation import validate
from srt_jax.errors import CheckpointError, ConfigError, ModelError
from srt_jax.jobs.evaluate import evaluate_model, evaluation_config
from srt_jax.jobs.probe import base_of
from srt_jax.jobs.replay import replay
from srt_jax.model import lora, peft, weights
from srt_jax.model.lora import LoRA
from srt_jax.run import exports
from srt_jax.run.metrics_log import read_metrics
from srt_jax.run.prepare import prepare, read_model
from srt_jax.train import train
from tests.helpers import small_config
from tests.tiny_decoder import flat

RANK = 4


def adapters_config(model, out, name, steps=2, rank=RANK, **changes):
    config = small_config(model, out, name, steps)
    config.model.lora.rank, config.optimizer.learning_rate = rank, 2e-3
    config.eval.every, config.checkpoint.every = 2, 1
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def adapters_run(untrained, tmp_path_factory):
    """(config, run folder, summary) of a run of two steps on eight devices, with a merged export."""
    out = tmp_path_factory.mktemp("runs")
    config = adapters_config(untrained, out, "run", **{"model.lora.merged": True})
    return config, out / "run", train(config)


def test_a_run_exports_an_adapter_and_the_merged_model(adapters_run, untrained):
    _, folder, _ = adapters_run
    adapter, settings = peft.read_adapter(folder / "final"), LoRA(RANK, 32.0)
    assert adapter.settings == settings and adapter.base_id == str(untrained.resolve())
    assert sorted(f.name for f in (folder / "final").iterdir()) == [peft.CONFIG, peft.WEIGHTS]
    before, merged = flat(weights.load(untrained)[1]), flat(weights.load(folder / "final_merged")[1])
    for name in lora.TARGETS.values():
        a, b = (adapter.tensors[f"layers.{name}.{part}"].astype(np.float64) for part in (lora.A, lora.B))
        assert np.abs(b).max() > 0
        found = merged[f"layers.{name}.kernel"] - before[f"layers.{name}.kernel"].astype(np.float64)
        assert np.abs(found - settings.scale * a @ b).max() < 1e-6
    for path in before.keys() - {f"layers.{name}.kernel" for name in lora.TARGETS.values()}:
        assert merged[path].tobytes() == before[path].tobytes(), path
    first = read_metrics(folder)[1]
    assert first["update/kl"] == 0 and first["update/grad_norm"] > 0 and "update/weights_moved_bf16" not in first


def test_a_checkpoint_has_the_adapters_and_their_moments_only(adapters_run):
    config, folder, _ = adapters_run
    size = sum(f.stat().st_size for f in (folder / "checkpoints/2/state").rglob("*") if f.is_file())
    assert size < 4 * read_model(config).config.num_params  # not even one copy of the base
    names = (folder / "checkpoints/2/state/_METADATA").read_text()
    assert "lora_a" in names and "kernel" not in names and "embedding" not in names


def test_evaluation_of_a_run_is_that_of_its_merged_model(adapters_run, tmp_path):
    _, folder, summary = adapters_run
    config = evaluation_config(str(folder), None, None)
    config.out = str(tmp_path)
    assert (config.model.lora.rank, config.model.lora.path) == (RANK, str(folder / "final"))
    found = evaluate_model(config, None)[1.0]["heldout"]
    exports.use(config, str(folder / "final_merged"))
    assert evaluate_model(config, None)[1.0]["heldout"] == found
    assert found.keys() <= {name.rpartition("/")[2] for name in summary["last"]}


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(adapters_run, untrained, tmp_path):
    whole, folder, _ = adapters_run
    config = whole.copy_and_resolve_references()
    config.out, config.steps = str(tmp_path), 1
    train(config)
    config.steps = 2
    train(config)
    assert (tmp_path / "run/final" / peft.WEIGHTS).read_bytes() == (folder / "final" / peft.WEIGHTS).read_bytes()
    kept = ("update/", "label/", "eval/")
    ours, theirs = (
        [
            {k: v for k, v in row.items() if k.startswith(kept) and k != "update/mfu"}
            for row in read_metrics(path)
            if row["step"]
        ]
        for path in (tmp_path / "run", folder)
    )
    assert ours[-1] == theirs[-1]


@pytest.mark.slow
def test_a_run_does_not_go_on_with_another_base(untrained, tmp_path):
    shutil.copytree(untrained, tmp_path / "base")
    config = adapters_config(tmp_path / "base", tmp_path, "run", 1)
    train(config)
    _, params, _ = weights.load(untrained)
    params = weights.map_with_path(lambda path, x: x + 1e-3 * path.endswith("kernel"), params)
    hf_config = weights.read_hf_config(untrained)
    weights.save(tmp_path / "base", params, hf_config, "float32", tokenizer_from=untrained)
    for file in ("train.jsonl", "heldout.jsonl"):
        shutil.copy(untrained / file, tmp_path / "base")
    config.steps = 2
    with pytest.raises(CheckpointError, match="differs in model contents: restore the initial model"):
        train(config)


def test_a_run_is_replayed_from_its_records(adapters_run):
    _, folder, _ = adapters_run
    assert replay(folder) == {1: {}, 2: {}}


@pytest.mark.slow
def test_a_run_starts_from_an_adapter_and_its_reference_is_the_base(adapters_run, untrained, tmp_path):
    _, folder, _ = adapters_run
    config = adapters_config(untrained, tmp_path, "second", 1, **{"model.lora.path": str(folder / "final")})
    config.optimizer.learning_rate, config.eval.every = 1e-12, 1
    train(config)
    before, after = (peft.read_adapter(path / "final").tensors for path in (folder, tmp_path / "second"))
    assert all(np.abs(after[path] - value).max() < 1e-9 for path, value in before.items())
    assert read_metrics(tmp_path / "second")[1]["update/kl"] > 0


def test_levels_start_from_the_adapters_before(untrained, tmp_path):
    config = adapters_config(untrained, tmp_path, "climb")
    config.levels = (dict(name="first"), dict(name="second"))
    first, second = level_configs(config)
    assert (first.model.lora.path, first.model.path) == ("", str(untrained))
    assert (second.model.lora.path, second.model.path) == (str(tmp_path / "climb/first/final"), str(untrained))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.lora.rank": -1}, r"model\.lora\.rank is -1: it must not be negative"),
        ({"model.lora.alpha": 0.0}, r"model\.lora\.alpha is 0\.0: it must be positive"),
        ({"model.lora.targets": ("lm_head",)}, r"model\.lora\.targets is \('lm_head',\): choose some of 'q_proj', "),
        ({"model.lora.targets": ()}, r"model\.lora\.targets is \(\): choose some of"),
        ({"model.lora.rank": 0, "model.lora.path": "a"}, r"model\.lora\.path is 'a', but model\.lora\.rank is 0"),
        ({"model.lora.rank": 0, "model.lora.merged": True}, r"model\.lora\.merged is True, but model\.lora\.rank is 0"),
    ],
)
def test_wrong_fields_are_refused(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        validate(adapters_config(tmp_path, tmp_path, "x", **changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"model.lora.rank": 65},
            ModelError,
            r"model\.lora\.rank is 65, but q_proj of this model has 64 x 128 weights",
        ),
        (
            {"model.lora.path": "/nothing"},
            ModelError,
            r"/nothing/adapter_config\.json does not exist: model\.lora\.path",
        ),
        ({"model.lora.rank": 2}, ConfigError, r"model\.lora\.rank is 2, but the adapter .*final has 4: set it to that"),
        ({"model.lora.alpha": 8.0}, ConfigError, r"model\.lora\.alpha is 8\.0, but the adapter .* has 32\.0"),
        (
            {"model.path": "other"},
            ModelError,
            r"belongs to the base '.*untrained', but model\.path is '.*other', which",
        ),
    ],
)
def test_adapters_that_do_not_fit_are_refused_before_any_weights_are_read(
    changes, error, message, adapters_run, untrained, tmp_path, monkeypatch
):
    config = adapters_config(untrained, tmp_path, "x")
    if changes.get("model.lora.rank", 0) <= RANK:
        config.model.lora.path = str(adapters_run[1] / "final")
    if changes.get("model.path"):
        shutil.copytree(untrained, tmp_path / "other")
        path = tmp_path / "other" / weights.WEIGHTS
        data = bytearray(path.read_bytes())
        data[-8:] = bytes(8)
        path.write_bytes(data)
        changes = {"model.path": str(tmp_path / "other")}
    config.update_from_flattened_dict(changes)
    monkeypatch.setattr(weights, "load", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(error, match=message):
        prepare(config)


def test_the_base_of_a_probe_is_that_of_the_run_or_of_the_adapter(adapters_run, untrained):
    config, folder, _ = adapters_run
    for model in (folder, folder / "final"):
        assert base_of(str(model), evaluation_config(str(model), None, config)) == str(untrained)
    assert base_of(str(untrained), evaluation_config(str(untrained), None, config)) == ""


def test_an_adapter_as_the_model_and_an_adapter_without_its_base_are_refused(adapters_run, tmp_path):
    config, folder, _ = adapters_run
    config = config.copy_and_resolve_references()
    config.model.path = str(folder / "final")
    with pytest.raises(ModelError, match=r"final' is an adapter of rank 4, not a model: set model\.lora\.path to it"):
        read_model(config)
    shutil.copytree(folder / "final", tmp_path / "moved")
    fields = json.loads((tmp_path / "moved" / peft.CONFIG).read_text()) | {"base_model_name_or_path": "/gone/base"}
    (tmp_path / "moved" / peft.CONFIG).write_text(json.dumps(fields))
    with pytest.raises(ModelError, match=r"moved belongs to the base '/gone/base', which does not exist here: copy"):
        exports.use(config, str(tmp_path / "moved"))


def test_a_folder_of_weights_names_the_initial_weights(adapters_run, untrained):
    config, folder, _ = adapters_run
    config = config.copy_and_resolve_references()
    exports.use(config, str(untrained))
    assert (config.model.path, config.model.lora.rank, config.model.lora.path) == (str(untrained), 0, "")
    exports.use(config, str(folder / "final"))
    validate(config)
    assert config.model.path == json.loads((folder / "final" / peft.CONFIG).read_text())["base_model_name_or_path"]
    assert (config.model.lora.rank, config.model.lora.path) == (RANK, str(folder / "final"))
