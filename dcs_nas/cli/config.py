"""``dcs-nas config``: the settings and their meaning. Loads no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dcs_nas.cli.options import Overrides
from dcs_nas.errors import InputError


def config(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[CONFIG|KEY]", help="A configuration (path or name), or a setting such as search.epochs."
        ),
    ] = None,
    section: Annotated[str | None, typer.Option(metavar="NAME", help="Only this section, e.g. search or data.")] = None,
    override: Overrides = None,
    schema: Annotated[
        bool,
        typer.Option("--schema", help="Print the JSON schema of configurations, for editors."),
    ] = False,
) -> None:
    """Explain settings: a whole configuration as YAML with comments, which can be run as it is, or one setting.

    Without a name: all settings at their defaults.
    """
    from dcs_nas.api import load_settings
    from dcs_nas.config import Config
    from dcs_nas.config.describe import comment_yaml, describe, find_key, keys

    if schema:
        if name is not None or section is not None or override:
            raise InputError("--schema is of all configurations; leave the rest out")
        print(json.dumps(_schema(), indent=2))
        return
    known = {key.name for key in keys()}
    if name is not None and not Path(name).is_file() and (name in known or name.partition(".")[0] in known):
        if section is not None or override:
            raise InputError(f"{name} is a setting; leave --section and -o out, or name a configuration")
        print(describe(find_key(name)))
        return
    if name is None:
        settings = Config.model_validate({"name": "my_job", "search": {"space": "demo_cells"}, "retrain": {}})
        if override:
            raise InputError("-o replaces settings of a configuration; name one, e.g. demo")
    else:
        settings = load_settings(name, override or [])
    print(comment_yaml(settings, section=section), end="")


def _schema() -> dict[str, object]:
    """Return the JSON schema; ``name`` may be left out; the default is the name of the file."""
    from dcs_nas.config import Config

    schema = Config.model_json_schema(by_alias=True)
    schema["required"] = [name for name in schema.get("required", []) if name != "name"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
