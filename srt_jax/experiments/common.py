"""Makes the config of an experiment from the names of a method, a model and a data set."""

from ml_collections import ConfigDict

from srt_jax.config import base
from srt_jax.experiments import data as data_table
from srt_jax.experiments.models import ADAPTERS, LORA, LORA_RATE, MODELS, SRT, TINY_ADAPTERS


def experiment(
    method: str,
    arguments: str,
    changes: dict | None = None,
    tiny: dict | None = None,
    default: str = "qwen25_math_7b,dapo",
    tiny_data: str = "sums",
    by_model: dict = SRT,
) -> ConfigDict:
    """The config of `MODEL,DATA`. A missing part comes from `default`; for `tiny` missing data is `tiny_data`.

    changes: fields that the method changes, by dotted name. by_model: model -> fields that the method changes for this
    model. tiny: fields that the method changes for the model `tiny`. If several set a field, the last of these counts:
    base, data, changes, model, by_model, tiny. A model's name with `_lora` trains adapters, at ten times the learning
    rate. Raises ValueError for an unknown model or data set.
    """
    named, data, *more = [*arguments.split(","), ""]
    usual_model, usual_data = default.split(",")
    named = named or usual_model
    model = named.removesuffix(LORA)
    data = data or (tiny_data if model == "tiny" else usual_data)
    if any(more):
        raise ValueError(f"the arguments are {arguments!r}, which has too many parts: give MODEL,DATA.")
    if model not in MODELS:
        raise ValueError(
            f"there is no model {model!r}: give one of {', '.join(MODELS)}; {LORA} after the name trains adapters."
        )
    found = data_table.find(data)
    config = base()
    config.name = f"{method}-{named}-{data}"
    config.data, config.steps = found.train.copy_and_resolve_references(), found.steps
    with config.eval.unlocked():
        config.eval.sets = ConfigDict({name: found.evals[name].copy_and_resolve_references() for name in found.evals})
    own = (MODELS[model], by_model.get(model, {}), (tiny or {}) if model == "tiny" else {})
    for fields in (found.fields, changes or {}, *own):
        config.update_from_flattened_dict(fields)
    if named != model:
        config.update_from_flattened_dict(TINY_ADAPTERS if model == "tiny" else ADAPTERS)
        config.optimizer.learning_rate *= LORA_RATE
    return config
