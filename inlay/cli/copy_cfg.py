"""``inlay copy-cfg``: a recipe as one self-contained file to edit."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

NAME = "copy-cfg"
HELP = "write a recipe as one five-part file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config_name", help="name of a recipe, or a config file")
    parser.add_argument("save_dir", help="folder of the copy, made where it is missing")


def run(args: argparse.Namespace) -> None:
    from inlay.config.source import find_config, flatten
    from inlay.core.errors import ConfigError

    path = find_config(args.config_name)
    name = os.path.join(args.save_dir, f"{path.stem}_copy.py")
    copy = Path(name)
    text = flatten(path)
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"'{error.filename}' exists; move it away or choose a folder") from error
    except OSError as error:
        raise ConfigError(f"cannot write '{copy}': {error.strerror}") from error
    print(f"Copy to {name}")
