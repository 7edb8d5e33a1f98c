"""`toolkit finetune METHOD` and `toolkit train METHOD`: every setting of a method is an option."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from toolkit.cli.common import open_dataset, say

_FINETUNED = ("yolo-world", "yolo", "sam")

_INPUT_HELP = {
    "prompt_run": "Run whose boxes, or peaks of its anomaly maps, are the prompts.",
    "decoder_run": "Run of the same fold whose mask decoder is reused instead of training one.",
}
_COMMON: dict[str, tuple[Any, Any]] = {
    "data": (
        Annotated[Path | None, typer.Option(help="Data set; default: the synthetic sample.")],
        None,
    ),
    "config": (Annotated[str | None, typer.Option(help="Config file, or a shipped name.")], None),
    "split": (
        Annotated[Path | None, typer.Option(help="Split file; default: that of the protocol.")],
        None,
    ),
    "protocol": (
        Annotated[
            str,
            typer.Option(help="supervised, official or balanced; auto: official without defects."),
        ],
        "auto",
    ),
    "fold": (Annotated[int, typer.Option(help="Fold that is tested.")], 0),
    "seed": (Annotated[int, typer.Option(help="Seed of all random numbers.")], 0),
    "device": (Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")], "auto"),
    "runs": (Annotated[Path, typer.Option(help="Folder of all runs.")], Path("runs")),
    "name": (Annotated[str | None, typer.Option(help="Name of the run; default: a number.")], None),
    "resume": (Annotated[bool, typer.Option("--resume", help="Continue the run --name.")], False),
    "set_": (
        Annotated[list[str] | None, typer.Option("--set", help="A setting as key=value.")],
        None,
    ),
}


class _Methods(TyperGroup):
    """Build the command of a method when it is used, so that `--help` imports no method."""

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
    cls=_Methods, help="Train a classifier or an anomaly scorer.", no_args_is_help=True
)


def _parser(key: str, wanted: Any) -> Callable[[Any], Any]:
    """Return a function that converts an option as the same value in a config file."""

    def parse(value: Any) -> Any:
        from toolkit.config import convert
        from toolkit.errors import ConfigError

        try:
            return convert(value, wanted, key)
        except ValueError as error:
            raise ConfigError(f"{_flag(key)}: {error}") from error

    return parse


def _type_name(wanted: Any) -> str:
    """Return what `--help` displays for a type: `<int>`, `[a|b]`, `<int,...>`."""
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Literal:
        return f"[{'|'.join(map(str, inner))}]"
    if origin in (typing.Union, types.UnionType):
        names = [_type_name(kind).strip("<>") for kind in inner if kind is not type(None)]
        return f"<{'|'.join([*names, *(['none'] if type(None) in inner else [])])}>"
    if origin is tuple:
        names = ["..." if kind is Ellipsis else _type_name(kind).strip("<>") for kind in inner]
        return f"<{','.join(names)}>"
    if origin is dict or wanted is dict:
        return "<{key: value}>"
    return f"<{getattr(wanted, '__name__', wanted)}>"


def _method_command(method: str) -> Callable[..., None]:
    """Return a function whose signature lists the common options and the method's settings."""
    from toolkit.methods.registry import method_class

    cls = method_class(method)
    fields = sorted(
        dataclasses.fields(cls.Settings), key=lambda f: f.metadata.get("advanced", False)
    )
    hints = typing.get_type_hints(cls.Settings)
    defaults = _defaults(method, cls.Settings)

    def command(**options: Any) -> None:
        common = {key: options.pop(key) for key in _COMMON}
        _train(method, {k: v for k, v in options.items() if v is not None}, **common)

    parameters = {**_COMMON, **{role: (_input_option(role), None) for role in cls.inputs}}
    for field in fields:
        option = _setting_option(field, hints[field.name], getattr(defaults, field.name))
        parameters[field.name] = (option, None)
    command.__doc__ = (inspect.getdoc(cls) or method).split("\n\n")[0]
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for key, (kind, default) in parameters.items()
        ]
    )
    command.__annotations__ = {key: kind for key, (kind, _) in parameters.items()}
    return command


def _input_option(role: str) -> Any:
    help_ = _INPUT_HELP.get(role, "Run that this one reads.")
    return Annotated[Path | None, typer.Option(_flag(role), help=help_)]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _defaults(method: str, settings: type) -> Any:
    """Return the settings of a command without options: the dataclass and the shipped config."""
    from toolkit.config import build_settings
    from toolkit.errors import ConfigError
    from toolkit.training import read_method_config

    try:
        _, values, source = read_method_config(f"{method}/default", {})
        return build_settings(settings, values, source=source)
    except ConfigError:  # the command itself reports it; help works without
        return settings()


def _setting_option(field: dataclasses.Field[Any], wanted: Any, default: Any) -> Any:
    text = ",".join(map(str, default)) if isinstance(default, tuple) else default
    panel = "Advanced" if field.metadata.get("advanced") else "Settings"
    help_ = f"{field.metadata.get('help', '')} (default: {text})"
    flag = _flag(field.name)
    if wanted is bool:
        both = f"{flag}/--no-{flag[2:]}"
        return Annotated[bool | None, typer.Option(both, help=help_, rich_help_panel=panel)]
    return Annotated[
        Any,
        typer.Option(
            flag,
            parser=_parser(field.name, wanted),
            metavar=_type_name(wanted),
            help=help_,
            rich_help_panel=panel,
        ),
    ]


def _train(
    method: str,
    settings: dict[str, Any],
    *,
    data: Path | None,
    set_: list[str] | None,
    resume: bool,
    name: str | None,
    **options: Any,
) -> None:
    from toolkit.config import parse_overrides
    from toolkit.errors import ConfigError
    from toolkit.leaderboards.board import leaderboard
    from toolkit.training import train

    if resume and name is None:
        raise ConfigError("--resume: needs --name of the run to continue")
    settings.update(parse_overrides(set_ or []))
    run = train(method, open_dataset(data), resume=resume, name=name, **options, **settings)
    say(f"run: {run.path}")
    print(leaderboard(run))
