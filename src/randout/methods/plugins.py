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

__all__ = ["load_plugin", "loaded_plugins", "register", "unload_plugins"]


def register(method: AnyMethod) -> AnyMethod:
    """Add a method class to the registry of this process; can be used as a decorator.

        @randout.register
        class MyNoise(randout.Method):
            name = "my-noise"
            summary = "..."

    Its settings are then a table `[methods.my-noise]` for `randout.train`, `search`, `compare` and `cross_validate` in
    this process. The command line loads a file that registers methods with `--plugin FILE`. Registering the same class
    again does nothing. Raises UserError for an unusable class and for a name that is already taken.
    """
    METHODS.add(method)
    return method


_plugins: dict[str, ModuleType] = {}  # modules that `load_plugin` loaded, by the given file or module name


def load_plugin(word: str) -> ModuleType:
    """Run a Python file or import a module that registers methods (`--plugin`), once for each `word`.

    word: a file or the name of a module. Raises UserError if it does not exist, fails, or registers no method.
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
                f"--plugin {word}: no such file or module; expected a Python file, such as my_noise.py"
            ) from None
        raise UserError(f"--plugin {word}: cannot be loaded: {cause(error, path)}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"--plugin {word}: cannot be loaded: {cause(error, path)}") from error
    own = [kind for kind in METHODS.added.values() if kind.__module__.split(".")[0] == module.__name__.split(".")[0]]
    if not own and before == METHODS.added:
        raise UserError(f"--plugin {word}: it registers no method; put @randout.register above your class")
    _plugins[word] = module
    return module


def unload_plugins() -> None:
    """Forget all loaded plugins and the methods that they registered; `load_plugin` then runs a file again."""
    for module in _plugins.values():
        inside = re.compile(rf"{re.escape(module.__name__)}(\.|$)")
        for name in [name for name, kind in METHODS.added.items() if inside.match(kind.__module__)]:
            METHODS.remove(name)
        for name in [name for name in sys.modules if inside.match(name)]:
            del sys.modules[name]
    _plugins.clear()


def loaded_plugins() -> Collection[str]:
    """Files and modules that were loaded as plugins in this process."""
    return tuple(_plugins)


def _run_file(path: Path) -> ModuleType:
    """Run a Python file as a module with a unique name."""
    if not path.is_file():
        raise UserError("no such file")
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]  # two files may have the same name
    name = f"randout_plugin_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{place}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise UserError("Python cannot import this file; expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # type annotations of a class are looked up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
