"""Records of the papers' figures and tables: the content, the paper's result, and one run for each curve."""

import dataclasses

from ml_collections import ConfigDict

from srt_jax.experiments.shipped import load

# These fields make the miniature collapse within minutes. The learning rate is four times the usual one. The accuracy
# rises for about twenty steps, then the run collapses.
COLLAPSE = {"optimizer.learning_rate": 8e-4, "steps": 50}


@dataclasses.dataclass(frozen=True)
class Curve:
    """One run of a figure.

    run: METHOD:ARGUMENTS of a config. fields: fields of that config that the curve changes, by dotted name.
    tiny: fields that the curve changes in the same run of the miniature.
    """

    run: str
    fields: dict = dataclasses.field(default_factory=dict)
    tiny: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure or a table of a paper.

    where: its numbers in the papers. shows: its content. paper: the result in the paper. curves: name -> run.
    """

    where: str
    shows: str
    paper: str
    curves: dict[str, Curve]


def figure_config(figures: dict[str, Figure], arguments: str) -> ConfigDict:
    """The config of FIGURE[,CURVE[,tiny]]. Without CURVE it is the figure's first curve.

    The run's folder is runs/<figure>/<curve>, or runs/<figure>/<curve>-tiny. Raises ValueError for unknown names.
    """
    name, curve, small, *more = [*arguments.split(","), "", "", ""]
    if name not in figures:
        raise ValueError(f"there is no figure {name!r}: give FIGURE,CURVE with FIGURE one of {', '.join(figures)}.")
    curves = figures[name].curves
    curve = curve or next(iter(curves))
    if curve not in curves or small not in ("", "tiny") or any(more):
        raise ValueError(
            f"{name} has the curves {', '.join(curves)}: give {name},CURVE or {name},CURVE,tiny, not {arguments!r}."
        )
    record = curves[curve]
    method, _, rest = record.run.partition(":")
    if small:
        rest = ",".join([*rest.split(",")[:-2], "tiny"])
    config = load(method).get_config(rest)
    config.update_from_flattened_dict(record.tiny if small else record.fields)
    config.out, config.name = f"runs/{name}", curve + ("-tiny" if small else "")
    return config
