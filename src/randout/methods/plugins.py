"""Methods from outside the package: `register`, and files or modules named with `--plugin`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from randout.core.errors import UserError

from .builtin import METHODS
from .registry import AnyMethod, cause

__all__ = ["load_plugin", "loaded_plugins", "register"]


def register(method: AnyMethod) -> AnyMethod:
    """Add a class of a method to the registry of this process; usable as a decorator.

        @randout.register
        class MyNoise(randout.Method):
            name = "my-noise"
            summary = "..."

    From then on its settings are a table `[methods.my-noise]`, for `randout.train`, `search`, `compare` and
    `cross_validate` of the same process; the command line loads a file that registers methods with `--plugin FILE`.
    Registering the same class again does nothing. Raises UserError for what is no usable class, and for a name that is
    taken.
    """
    METHODS.add(method)
    return method


_plugins: dict[str, ModuleType] = {}  # what `load_plugin` loaded, by the word that named it


def load_plugin(word: str) -> ModuleType:
    """Run a Python file, or import a module, that registers methods (`--plugin`). Once for each word.

    Raises UserError where there is no such file or module, it fails, or it registers no method.
    """
    if word in _plugins:
        return _plugins[word]
    path = Path(word)
    before = dict(METHODS.added)
    try:
        module = _run_file(path) if path.suffix == ".py" or path.is_file() else importlib.import_module(word)
    except UserError as error:
        raise UserError(f"--plugin {word}: {error}") from None
    except ModuleNotFoundError as error:
        if error.name == word:
            raise UserError(
                f"--plugin {word}: there is no such file and no such module; expected a Python file, such as my_noise.py"
            ) from None
        raise UserError(f"--plugin {word}: cannot be loaded: {cause(error, path)}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"--plugin {word}: cannot be loaded: {cause(error, path)}") from error
    own = [kind for kind in METHODS.added.values() if kind.__module__.split(".")[0] == module.__name__.split(".")[0]]
    if not own and before == METHODS.added:
        raise UserError(f"--plugin {word}: it registers no method; put @randout.register above the class of yours")
    _plugins[word] = module
    return module


def loaded_plugins() -> Collection[str]:
    """What `--plugin` named in this process."""
    return tuple(_plugins)


def _run_file(path: Path) -> ModuleType:
    """The module that a Python file makes, under a name of its own."""
    if not path.is_file():
        raise UserError("no such file")
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]  # two files may have one name
    name = f"randout_plugin_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{place}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise UserError("found a file that Python cannot import; expected one whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where the types in a class's annotations are looked up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
