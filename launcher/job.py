"""The job: every setting with its value and where that came from. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal, TypeVar

from launcher.errors import UserError
from launcher.job_checks import check_training, check_workers
from strategies import STRATEGIES
from strategies.mnist.data import held_out
from strategies.mnist.models import MODELS, Recipe
from strategies.mnist.order import steps_per_epoch
from strategies.mnist.schedule import default_warmup_epochs, scaled_lr

DEFAULT_SEED = 0
_TRAINING = (
    *("model", "recipe", "epochs", "steps", "batch_size", "batch_size_per_gpu", "lr", "momentum"),
    *("seed", "precision", "exchange", "cuda_graphs", "baseline", "data_dir", "resume"),
    *("accumulate", "scale_lr", "warmup_epochs", "tensorboard"),
)
_CHECKPOINTED = (
    *("strategy", "model", "seed", "batch_size", "lr", "momentum", "validation", "data_dir"),
    *("warmup_lr", "warmup_steps"),
)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Given:
    """A value that the user gave, and where: "--epochs" or "TROIKA_EPOCHS"."""

    value: Any
    source: str


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What is to be done, before it is known where.

    ``batch_size`` is global, and computed in ``accumulate`` parts; ``gpus`` is the number of
    devices, GPUs or CPU workers; the learning rate rises from ``warmup_lr`` to ``lr`` in the first
    ``warmup_steps`` steps; after a failure the job goes on up to ``max_restarts`` times, with fewer
    devices if it has to, but not fewer than ``min_gpus`` (None: only with all); ``wait``: seconds
    to wait for a cluster to have room, None for not at all; ``script`` is the user's script and its
    arguments, empty for the built-in training; ``sources`` says for each setting where its value
    came from.
    """

    strategy: str
    gpus: int
    device: Literal["auto", "cuda", "cpu"]
    model: str
    recipe: str
    epochs: int
    steps: int | None
    batch_size: int
    accumulate: int
    lr: float
    warmup_lr: float
    warmup_steps: int
    momentum: float
    validation: float
    seed: int
    precision: Literal["fp32", "tf32", "bf16"]
    exchange: str
    cuda_graphs: bool
    baseline: bool
    tensorboard: bool
    max_restarts: int
    min_gpus: int | None
    wait: float | None
    data_dir: str | None
    resume: str | None
    script: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    def origin(self, name: str) -> str:
        """A setting with its value and origin, to begin an error with."""
        return f"{name} {getattr(self, name)} ({self.sources[name]})"


def choose_strategy(given: Mapping[str, Given], checkpoint: Mapping[str, Any] | None) -> str:
    """The strategy's name; it is needed before the cluster is looked at. Raises UserError."""
    values = _Values(given, checkpoint or {})
    name = values.pick("strategy", "ddp", "default")
    _check_name(values, "strategy", name, STRATEGIES)
    return name


def resolve(
    given: Mapping[str, Given],
    *,
    default_gpus: int,
    samples: int,
    checkpoint: Mapping[str, Any] | None,
    exchanges: tuple[str, ...] = ("auto",),
) -> JobSpec:
    """Fills in what was not given: from the checkpoint to resume, else from the recipe, else fixed.

    ``default_gpus`` is for a missing --gpus; ``samples`` is the number of training samples, held
    out ones included; ``checkpoint`` is the header of the checkpoint to resume; ``exchanges`` are
    those of the strategy. Raises UserError.
    """
    values = _Values(given, checkpoint or {})
    _check_script(given)
    strategy = values.pick("strategy", choose_strategy(given, checkpoint), "default")
    gpus = values.pick("gpus", default_gpus, "what this machine has")
    model = values.pick("model", "lenet", "default")
    _check_name(values, "model", model, MODELS)
    recipe_name = values.pick("recipe", "article", "default")
    recipes = MODELS[model].recipes
    _check_name(values, "recipe", recipe_name, recipes)
    recipe, origin = recipes[recipe_name], f"recipe {recipe_name!r} of {model}"
    epochs = values.pick("epochs", recipe.epochs, origin)
    validation = values.pick("validation", recipe.validation, origin)
    kept = samples - held_out(samples, validation)
    accumulate = values.pick("accumulate", 1, "default")
    batch_size = _batch_size(values, gpus, accumulate, recipe, origin)
    exchange = values.pick("exchange", "auto", "default")
    _check_name(values, "exchange", exchange, exchanges)
    lr, warmup_lr, warmup_steps = _rates(values, recipe, origin, epochs, batch_size, kept)
    job = JobSpec(
        strategy=strategy,
        gpus=gpus,
        device=values.pick("device", "auto", "default"),
        model=model,
        recipe=recipe_name,
        epochs=epochs,
        steps=_steps(values, recipe, origin),
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        warmup_lr=warmup_lr,
        warmup_steps=warmup_steps,
        momentum=values.pick("momentum", recipe.momentum, origin),
        validation=validation,
        seed=values.pick("seed", DEFAULT_SEED, "default"),
        precision=values.pick("precision", "fp32", "default"),
        exchange=exchange,
        cuda_graphs=values.pick("cuda_graphs", True, "default"),
        baseline=values.pick("baseline", True, "default"),
        tensorboard=values.pick("tensorboard", False, "default"),
        max_restarts=values.pick("max_restarts", 0, "default"),
        min_gpus=values.pick("min_gpus", None, "default"),
        wait=values.pick("wait", None, "default"),
        data_dir=values.pick("data_dir", None, "the package's MNIST"),
        resume=values.pick("resume", None, "default"),
        script=tuple(given["script"].value) if "script" in given else (),
        sources=values.sources,
    )
    check_workers(job)
    if not job.script:
        check_training(job, kept, values.checkpoint)
    return job


class _Values:
    """Picks values and remembers where they came from."""

    def __init__(self, given: Mapping[str, Given], checkpoint: Mapping[str, Any]) -> None:
        self.given, self.checkpoint = given, checkpoint
        self.sources: dict[str, str] = {}

    def pick(self, name: str, default: _T, origin: str) -> _T:
        value, source = default, origin
        if name in _CHECKPOINTED and name in self.checkpoint:
            value, source = self.checkpoint[name], "the checkpoint"
        if name in self.given:
            if name == "model" and source == "the checkpoint" and self.given[name].value != value:
                raise UserError(
                    f"{self.given[name].source} {self.given[name].value}: the checkpoint to "
                    f"resume holds the model {value}"
                )
            value, source = self.given[name].value, self.given[name].source
        self.sources[name] = source
        return value


def _steps(values: _Values, recipe: Recipe, origin: str) -> int | None:
    if "epochs" in values.given and "steps" not in values.given:
        # Whoever asks for epochs wants them whole: a recipe's step limit gives way.
        values.sources["steps"] = "as many as the epochs have"
        return None
    return values.pick("steps", recipe.steps, origin)


def _batch_size(values: _Values, gpus: int, accumulate: int, recipe: Recipe, origin: str) -> int:
    each = values.given.get("batch_size_per_gpu")
    if each is None:
        return values.pick("batch_size", recipe.batch_size, origin)
    if "batch_size" in values.given:
        raise UserError(
            f"{values.given['batch_size'].source} and {each.source} are both given; "
            "one follows from the other, give one"
        )
    parts = f" x {accumulate} parts" if accumulate > 1 else ""
    values.sources["batch_size"] = f"{each.source} {each.value} x {gpus} workers{parts}"
    return int(each.value) * gpus * accumulate


def _rates(
    values: _Values, recipe: Recipe, origin: str, epochs: int, batch_size: int, samples: int
) -> tuple[float, float, int]:
    """The learning rate, the one to warm up from, and the steps of the warm-up.

    The rate is scaled and warmed up only when the user asks for it.
    """
    lr = values.pick("lr", recipe.lr, origin)
    warmup_lr = values.pick("warmup_lr", 0.0, "default")
    warmup_steps = values.pick("warmup_steps", 0, "default")
    warmup_epochs, asked = 0.0, values.given.get("warmup_epochs")
    if scale := values.given.get("scale_lr"):
        if values.sources["lr"] == "the checkpoint":
            raise UserError(
                f"{scale.source}: the checkpoint to resume has the learning rate {lr:g}, scaled "
                "or not; give the one to scale with --lr"
            )
        warmup_lr, lr = lr, scaled_lr(lr, batch_size, recipe.batch_size)
        scaled = f"x {batch_size}/{recipe.batch_size} by {scale.source}"
        values.sources["lr"] = f"{values.sources['lr']}, {scaled}"
        warmup_epochs = default_warmup_epochs(epochs) if lr > warmup_lr else 0.0
        values.sources["warmup_lr"] = values.sources["warmup_steps"] = scale.source
    if asked:
        warmup_epochs = asked.value
        values.sources["warmup_steps"] = f"{asked.source} {asked.value:g}"
        if not (warmup_epochs >= 0 and isfinite(warmup_epochs)):
            raise UserError(f"{asked.source} {asked.value:g}: must be 0 or more")
    if scale or asked:
        # A batch below 1 is refused later, with its origin.
        warmup_steps = round(warmup_epochs * steps_per_epoch(samples, max(batch_size, 1)))
        if not scale:
            warmup_lr = 0.0
    return lr, warmup_lr, warmup_steps


def _check_script(given: Mapping[str, Given]) -> None:
    useless = [given[name].source for name in _TRAINING if name in given]
    if "script" in given and useless:
        raise UserError(
            f"{', '.join(useless)}: only for the built-in training; {given['script'].value[0]} "
            "takes its own arguments, behind its name"
        )


def _check_name(values: _Values, name: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        origin = values.sources[name]
        raise UserError(f"{name} {value} ({origin}): not known; there are {', '.join(known)}")
