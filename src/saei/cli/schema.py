"""``saei schema``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from saei.cli.options import Plugins
from saei.console import say


def schema(
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write it here instead of printing it.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Write a JSON Schema of the configuration with all installed strategies, by which an editor completes a file."""
    from saei.config.registry import load_plugin
    from saei.config.schema import json_schema
    from saei.errors import ConfigError

    for each in plugin or []:
        load_plugin(each)
    schema_of_run = json_schema()
    if output is None:
        print(json.dumps(schema_of_run, indent=2, ensure_ascii=False))
        return
    try:
        output.write_text(json.dumps(schema_of_run, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            "schema writes a file.", reason=f"{output}: {error.strerror}.", remedy="Give another path."
        ) from error
    say(f"Wrote {output}. As the first line of a configuration:\n# yaml-language-server: $schema={output}")
