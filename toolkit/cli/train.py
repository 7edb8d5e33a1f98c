"""`toolkit finetune METHOD` and `toolkit train METHOD`: every setting of a method is an option."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from toolkit.cli.common import open_dataset, open_split, say

_FINETUNED = ("yolo-world", "yolo", "sam")

Data = Annotated[Path | None, typer.Option("--data", help="Data set; default: synthetic sample.")]
Config = Annotated[str | None, typer.Option("--config", help="Config file, or a shipped name.")]
SplitFile = Annotated[Path | None, typer.Option("--split", help="Split file; default: made anew.")]
Protocol = Annotated[str, typer.Option("--protocol", help="supervised, official or balanced.")]
Fold = Annotated[int, typer.Option("--fold", help="Which fold is tested.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all random numbers.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of all runs.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the run; default: numbered.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run of this name.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Another setting, as key=value.")]
_READS = {
    "prompt_run": "Run whose boxes, or whose anomaly map's peaks, prompt.",
    "decoder_run": "Run of the same fold whose decoder answers, so that nothing is trained.",
}


class _Methods(TyperGroup):
    """Builds a method's command when it is asked for, so that `--help` imports no method."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the methods of this group."""
        from toolkit.methods.registry import method_names

        if self.name == "finetune":
            return list(_FINETUNED)
        return [name for name in method_names() if name not in _FINETUNED]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of one method.

        Raises:
            ConfigError: no such method, or one of the other group.
        """
        known = self.list_commands(ctx)
        if cmd_name not in known:
            from toolkit.errors import ConfigError, did_you_mean
            from toolkit.methods.registry import method_names

            if cmd_name in method_names():
                other = "train" if self.name == "finetune" else "finetune"
                raise ConfigError(f"method {cmd_name}: use toolkit {other} {cmd_name}")
            raise ConfigError(f"method {cmd_name}: unknown{did_you_mean(cmd_name, known)}")
        app = typer.Typer(add_completion=False)
        command = _method_command(cmd_name)
        app.command(cmd_name, help=command.__doc__)(command)
        return typer.main.get_command(app)


finetune_app = typer.Typer(
    cls=_Methods, help="Fine-tune a pretrained detector or segmenter.", no_args_is_help=True
)
train_app = typer.Typer(
    cls=_Methods, help="Train a baseline or a good-only scorer.", no_args_is_help=True
)


def _method_command(method: str) -> Callable[..., None]:
    """Return a function whose signature lists the common options and the method's settings."""
    from toolkit.methods.registry import method_class

    cls = method_class(method)
    fields = dataclasses.fields(cls.Settings)
    defaults = _defaults(method, cls.Settings)

    def command(**options: Any) -> None:
        changes = {f.name: options.pop(f.name) for f in fields}
        _train(method, changes={k: v for k, v in changes.items() if v is not None}, **options)

    common = {
        "data": (Data, None), "config": (Config, None), "split": (SplitFile, None),
        "protocol": (Protocol, "supervised"), "fold": (Fold, 0), "seed": (Seed, 0),
        "device": (Device, "auto"), "runs": (Runs, Path("runs")), "name": (Name, None),
        "resume": (Resume, False), "set_": (Set, None),
    }  # fmt: skip
    common |= {role: (_run_option(role), None) for role in cls.inputs}
    options = {**common, **{f.name: (_option(f, defaults), None) for f in fields}}
    command.__doc__ = (inspect.getdoc(cls) or method).split("\n\n")[0]
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for key, (kind, default) in options.items()
        ]
    )
    command.__annotations__ = {key: kind for key, (kind, _) in options.items()}
    return command


def _run_option(role: str) -> Any:
    return Annotated[Path | None, typer.Option(_flag(role), help=_READS.get(role, "Run to read."))]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _defaults(method: str, settings: type) -> Any:
    """Return the settings that hold without any option: those of the shipped config."""
    from toolkit.benchmark.grid import read_method_config
    from toolkit.config import build_settings
    from toolkit.errors import ConfigError

    try:
        _, values, source = read_method_config(f"{method}/default", {})
        return build_settings(settings, values, source=source)
    except ConfigError:  # help is there to mend it; the command itself will name what is wrong
        return settings()


def _option(field: dataclasses.Field[Any], defaults: Any) -> Any:
    default = getattr(defaults, field.name)
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    text = f"{field.metadata.get('help', '')} (default: {shown})"
    return Annotated[
        str | None, typer.Option(_flag(field.name), help=text, rich_help_panel="Settings")
    ]


def _train(
    method: str,
    *,
    changes: dict[str, Any],
    data: Path | None,
    config: str | None,
    split: Path | None,
    protocol: str,
    fold: int,
    seed: int,
    device: str,
    runs: Path,
    name: str | None,
    resume: bool,
    set_: list[str] | None,
    **reads: Path | None,
) -> None:
    from toolkit.benchmark.grid import read_method_config
    from toolkit.config import parse_overrides
    from toolkit.data.validate import validate_dataset
    from toolkit.errors import ConfigError
    from toolkit.leaderboard.summary import run_summary
    from toolkit.methods.registry import make_method
    from toolkit.training import TrainingTask, run_training

    if resume and name is None:
        raise ConfigError("--resume: needs --name of the run to go on with")
    changes.update(parse_overrides(set_ or []))
    named, settings, source = read_method_config(config or f"{method}/default", changes)
    if named != method:
        raise ConfigError(f"{source}: is a config of {named}, not of {method}")
    if changes:
        source += " with the options given"
    dataset = open_dataset(data)
    validate_dataset(dataset)
    seen = make_method(method, settings, source=source).seen_images()
    part = open_split(dataset, split, protocol=protocol, fold=fold, seen_images=seen)
    task = TrainingTask(
        method=method, entry=name or method, settings=settings, source=source, fold=fold,
        seed=seed, device=device, name=name,
        inputs={role: str(place.resolve()) for role, place in reads.items() if place},
    )  # fmt: skip
    run = run_training(task, part, runs=runs, resume=resume)
    say(f"run: {run.path}")
    print(run_summary(run))
