"""The contents of a study file: arms, settings and seeds, the files that runs need, and the claims."""

import dataclasses
import hashlib
import json
import pathlib
import runpy
from collections.abc import Callable, Iterable, Mapping, Sequence

from ml_collections import ConfigDict

from srt_jax.config import base, fingerprint_fields, source
from srt_jax.errors import ConfigError
from srt_jax.files import shown
from srt_jax.study.rules import Claim
from srt_jax.study.stops import Bars

RUNS = pathlib.Path("runs/studies")  # the folder for the runs of all studies
Fields = Mapping[str, object]  # {"rl.kl_coef": 0.0}: fields of the config by dotted name


@dataclasses.dataclass(frozen=True)
class Need:
    """A file or folder that runs need.

    job: the arguments of `python -m srt_jax` that make it, or a function that gets the path and makes it.
    """

    path: str
    job: tuple[str, ...] | Callable[[pathlib.Path], object]


def nothing(setting: str, seed: int) -> dict:
    """The default of `by_run` and `needs`: no fields, no needs."""
    del setting, seed
    return {}


@dataclasses.dataclass(frozen=True)
class Arm:
    """The changes of the config that one arm makes.

    fields: config fields of all its runs. by_run(setting, seed): further config fields of one run. A field of an
        evaluation set that the config does not have adds this set.
    needs(setting, seed): files that the run needs in addition to those of the study.
    teacher_samples, teacher_problems: for this arm a teacher draws teacher_samples for each of teacher_problems
        problems. Their tokens count as generated.
    settings: the arm has runs in these settings only. (): in all settings.
    config: the config of its runs. None: the study's config.
    """

    fields: Fields = dataclasses.field(default_factory=dict)
    by_run: Callable[[str, int], Fields] = nothing
    needs: Callable[[str, int], Iterable[Need]] = nothing
    teacher_samples: int = 0
    teacher_problems: int = 0
    settings: Sequence[str] = ()
    config: ConfigDict | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """Runs of arms x settings x seeds that share one config.

    config: the config of all runs. settings: {name: config fields}. by_run(setting, seed): further config fields, such
        as the base model's folder. A later change overrides an earlier one, in the order config, by_run, settings, the
        arm's fields, the arm's by_run.
    needs(setting, seed): files that the run needs.
    column: the column of the table that the report shows and the claims judge, unless a claim names another one.
    bars: the thresholds for stops without labels, in a study whose runs have a guard (stops.py).
    text: the study file's docstring, for the report.
    """

    name: str
    config: ConfigDict
    arms: Mapping[str, Arm]
    seeds: Sequence[int]
    column: str
    settings: Mapping[str, Fields] = dataclasses.field(default_factory=lambda: {"": {}})
    by_run: Callable[[str, int], Fields] = nothing
    needs: Callable[[str, int], Iterable[Need]] = nothing
    claims: Sequence[Claim] = ()
    bars: Bars | None = None
    text: str = ""


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a study. teacher_responses: number of samples that a teacher draws for it, over all problems."""

    arm: str
    setting: str
    seed: int
    config: ConfigDict
    needs: tuple[Need, ...]
    teacher_responses: int

    @property
    def name(self) -> str:
        """arm-setting-seedS. The name of the run's folder is this, followed by the start of the key."""
        return "-".join(filter(None, (self.arm, self.setting, f"seed{self.seed}")))

    @property
    def key(self) -> str:
        """16 hexadecimal digits, a hash of the fields that can change the result and differ from their defaults.

        Fields at their defaults are left out, so a field that the project adds later does not change the key.
        """
        fields = {**own_fields(self.config), "steps": self.config.steps}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def shape(self) -> str:
        """The part of the config that compiled programs depend on, as text. Runs of equal shape share programs."""
        config = json.loads(self.config.to_json_best_effort())
        for section in ("name", "out", "seed", "data", "labels", "eval", "stop", "log", "checkpoint", "curriculum"):
            config.pop(section, None)
        config["model"].pop("path")
        return json.dumps(config, sort_keys=True)


def own_fields(config: ConfigDict) -> dict[str, object]:
    """{dotted name: value} of the fields that can change a result and differ from their defaults."""
    defaults = flat(fingerprint_fields(base()))
    for name in config.eval.sets:
        defaults |= flat(json.loads(source().to_json_best_effort()), f"eval.sets.{name}.")
    return {k: v for k, v in flat(fingerprint_fields(config)).items() if k not in defaults or v != defaults[k]}


def flat(fields: Mapping, prefix: str = "") -> dict[str, object]:
    """{dotted name: value} of nested fields. prefix: text before each name."""
    found = {}
    for name, value in fields.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return found


def planned(study: Study) -> list[PlannedRun]:
    """All runs of a study, sorted by shape, and within a shape by seed, so that the first pairs are complete early.

    Raises ConfigError if an arm or a setting names a field that does not exist, or if steps of arms are compared
    (`bars`) that make unequal numbers of updates.
    """
    runs = []
    for seed in study.seeds:
        for setting, changes in study.settings.items():
            for name, arm in study.arms.items():
                if arm.settings and setting not in arm.settings:
                    continue
                config = (arm.config or study.config).copy_and_resolve_references()
                for fields in (study.by_run(setting, seed), changes, arm.fields, arm.by_run(setting, seed)):
                    try:
                        change(config, fields)
                    except (KeyError, TypeError) as e:
                        where = f"arm {name!r}, setting {setting!r}"
                        raise ConfigError(f"study {study.name}: {where}: {e}: correct the field's name.") from None
                config.seed, config.out = seed, str(RUNS / study.name)
                needs = (*study.needs(setting, seed), *arm.needs(setting, seed))
                responses = arm.teacher_samples * arm.teacher_problems
                run = PlannedRun(name, setting, seed, config, needs, responses)
                config.name = f"{run.name}-{run.key[:8]}"  # the key does not depend on the name
                runs.append(run)
    if study.bars:
        check_updates(study.name, runs)
    shapes = list(dict.fromkeys(run.shape for run in runs))
    return sorted(runs, key=lambda run: shapes.index(run.shape))


def check_updates(name: str, runs: Iterable[PlannedRun]) -> None:
    """Raises ConfigError if two runs of one setting make different numbers of optimizer updates. name: the study's."""
    first: dict[str, PlannedRun] = {}
    for run in runs:
        other = first.setdefault(run.setting, run)
        if updates(run.config) != updates(other.config):
            raise ConfigError(
                f"study {name}: arm {run.arm!r} makes {updates(run.config)} updates and arm {other.arm!r} "
                f"{updates(other.config)} in the setting {run.setting!r}, but bars compare arms by step: give them "
                "equal steps, batch.minibatches_per_step and batch.epochs_per_step."
            )


def updates(config: ConfigDict) -> int:
    """The number of optimizer updates of a run."""
    return config.steps * config.batch.minibatches_per_step * config.batch.epochs_per_step


def change(config: ConfigDict, fields: Fields) -> None:
    """Sets fields of the config in place. A field of an unknown evaluation set adds this set with its defaults.

    Raises KeyError for an unknown field and TypeError for a value of a wrong type.
    """
    sets = {name.split(".")[2] for name in fields if name.startswith("eval.sets.")}
    with config.eval.sets.unlocked():
        for name in sorted(sets - {*config.eval.sets}):
            config.eval.sets[name] = source()
    config.update_from_flattened_dict(dict(fields))


def load(path: pathlib.Path, quick: bool) -> Study:
    """The study that a study file defines. quick: its smaller version.

    Raises ConfigError if the file defines no study, or if a claim names an arm or a setting that does not exist.
    """
    try:
        found = runpy.run_path(str(path))
    except OSError as e:
        raise ConfigError(f"the study file {path} cannot be read ({e.strerror}): name a Python file.") from None
    except Exception as e:  # a study file is a program: it may raise anything
        raise ConfigError(f"the study file {path} fails ({type(e).__name__}: {e}): correct it.") from None
    if not callable(found.get("get_study")):
        raise ConfigError(f"the study file {path} has no get_study(quick): define this function and return a Study.")
    study = found["get_study"](quick)
    if not isinstance(study, Study):
        raise ConfigError(f"get_study of {path} returns {shown(study)}: return a Study.")
    study = dataclasses.replace(study, text=found.get("__doc__") or "", name=study.name + "-quick" * quick)
    for claim in study.claims:
        if claim.setting and claim.setting not in study.settings:
            known = ", ".join(study.settings)
            raise ConfigError(f"claim {claim.name!r} names the setting {claim.setting!r}: give one of {known}.")
        for arm in filter(None, (claim.arm, claim.against)):
            if arm not in study.arms:
                raise ConfigError(f"claim {claim.name!r} names the arm {arm!r}: give one of {', '.join(study.arms)}.")
    return study
