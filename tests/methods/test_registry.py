"""The registry of methods: entry points of packages, `register`, and `--plugin`; and what runs say of them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import randout
from conftest import Run
from randout.core import config
from randout.core.errors import UserError
from randout.experiments.study import spec
from randout.methods import catalog, plugins, registry
from randout.methods.base import Method
from randout.methods.builtin import METHODS
from randout.testing.models import toy_texts

pytestmark = pytest.mark.usefixtures("registry_restored")

CLASS = """
from __future__ import annotations

from typing import TYPE_CHECKING

{imports}
from randout import Method
from randout.methods import Batch, Forward, State, Step
from randout.models.outputs import Output

if TYPE_CHECKING:
    from torch import Tensor


{decorator}
class Small(Method):
    "mean_i |z_i|^2."

    name = "{name}"
    summary = "small logits"
    losses = ("{name}",)
    weight: float = 0.1

    def loss(self, step: Step, state: State, output: Output, batch: Batch, forward: Forward) -> dict[str, Tensor]:
        return {{"{name}": self.weight * output.logits.square().sum() / batch.step_labels.numel()}}
"""


def source(name: str = "small", decorator: str = "", imports: str = "") -> str:
    return CLASS.format(name=name, decorator=decorator, imports=imports)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """(package, code, version, point, value) -> an installed package of one module; installed again, another version."""

    def of(
        package: str,
        code: str,
        version: str = "1.0",
        point: str = "small",
        value: str = "",
        group: str = registry.GROUP,
    ) -> Path:
        folder, module = tmp_path / f"site-{package}", package.replace("-", "_")
        for old in folder.glob("*.dist-info"):
            (old / "METADATA").unlink()
            (old / "entry_points.txt").unlink()
            old.rmdir()
        info = folder / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{point} = {value or f'{module}:Small'}\n")
        (folder / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, module, raising=False)
        for name in [name for name, kind in METHODS.added.items() if kind.__module__ == module]:
            METHODS.remove(name)
        METHODS.refresh()
        return folder / f"{module}.py"

    return of


def made(name: str, **more: Any) -> type[Method]:
    """A class of a method with this name."""
    return type(
        "Made", (Method,), {"name": name, "summary": "nothing", "__annotations__": {}, "__module__": __name__, **more}
    )


def test_a_package_is_imported_only_when_its_method_is_used(install: Callable[..., Path]) -> None:
    install("small-logits", source())
    assert "small" in METHODS
    assert list(METHODS)[-1] == "small"
    assert config.assignment("small.weight=0.5", METHODS) == {"methods": {"small": {"weight": 0.5}}}
    assert config.build([config.read_preset("plain")], METHODS).methods.keys() == {"ce"}
    assert "small_logits" not in sys.modules
    built = config.build([config.read_preset("plain"), {"methods": {"small": {}}}], METHODS)
    assert "small_logits" in sys.modules
    assert built.methods["small"] == {"weight": 0.1}
    assert config.build([config.tomllib.loads(config.to_toml(built))], METHODS) == built
    assert "[methods.small]" in config.commented(built, METHODS)
    origin = METHODS.origin("small")
    assert (origin.package, origin.version, origin.file) == ("small-logits", "1.0", "small_logits.py")
    assert len(origin.sha256) == 64
    assert METHODS.origin("ce") is None


def test_no_large_library_is_loaded_for_it(install: Callable[..., Path]) -> None:
    site = install("small-logits", source()).parent
    code = """
import sys, randout, randout.cli.app
assert "randout.methods" not in sys.modules
sys.argv = ["randout", "methods"]
try:
    randout.cli.app.main()
except SystemExit as end:
    assert not end.code
print(sorted({"torch", "transformers"} & set(sys.modules)), "small_logits" in sys.modules)
"""
    path = f"{Path(randout.__file__).parents[1]}:{site}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path}, check=True
    )
    assert done.stdout.splitlines()[-1] == "[] True"
    assert "package small-logits 1.0" in done.stdout


def test_the_order_is_by_name_whatever_came_first() -> None:
    for name in ("zeta", "alpha"):
        METHODS.add(made(name))
    assert [*METHODS][-2:] == ["alpha", "zeta"]
    assert [*METHODS][: len(METHODS.built_in)] == [*METHODS.built_in]
    assert len(METHODS) == len(METHODS.built_in) + 2


BROKEN = [  # code of the package, its entry point and value, and what the error says of it
    ("import no_such_module", "small", "", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
    ("1 / 0", "small", "", "cannot be loaded: ZeroDivisionError"),
    ("raise SystemExit(3)", "small", "", "cannot be loaded: SystemExit"),
    (
        source(decorator="@__import__('randout').register") + "1 / 0",
        "small",
        "",
        "cannot be loaded: ZeroDivisionError: ",
    ),
    ("", "small", "", "cannot be loaded: AttributeError"),
    ("Small = 3", "small", "", "found 3, expected a class derived from randout.Method"),
    ("class Small: name = 'small'", "small", "", "expected a class derived from randout.Method"),
    (source("smaller"), "small", "", "has the name 'smaller'; the entry point must have the same name"),
    (source(), "small", "broken_one:Small.name", "found 'small', expected a class derived from randout.Method"),
    (source("mixout"), "small", "", "has the name 'mixout'"),
]


@pytest.mark.parametrize(("code", "point", "value", "text"), BROKEN, ids=[text for *_, text in BROKEN])
def test_a_broken_package_hurts_only_who_uses_it(
    install: Callable[..., Path], run: Run, code: str, point: str, value: str, text: str
) -> None:
    install("broken-one", code, "0.3", point, value)
    status, out, err = run("methods")
    assert status == 0
    assert "\nmixout " in out
    assert "\nsmall " not in out
    assert (
        err.count("warning: methods.small: the entry point 'small' of the package broken-one 0.3 (broken_one:Small")
        == 1
    )
    assert text in err
    for words in (
        ["methods", "small"],
        ["train", "no.csv", "--set", "small.weight=1"],
        ["compare", "no.csv", "--methods", "small"],
    ):
        status, _, err = run(*words)
        assert status == 2, words
        assert "error: methods.small: the entry point 'small' of the package broken-one 0.3" in err
        assert text in err
    assert run("init", "--preset", "plain")[0] == 0


def test_names_that_clash(install: Callable[..., Path], run: Run) -> None:
    """With a built-in method: that one stays, and the package is warned of. Of two packages: neither is taken."""
    install("first-small", source())
    install("second-small", source(), "2.0")
    install("other-mixout", source("mixout"), point="mixout")
    status, _, err = run("methods")
    assert status == 0
    assert (
        "warning: the entry point 'mixout' of the package other-mixout 1.0 (other_mixout:Small) has the name of a"
        in err
    )
    assert METHODS["mixout"] is randout.Mixout
    both = (
        "the entry point 'small' of the package first-small 1.0 (first_small:Small) and the entry point 'small' of the "
    )
    assert f"methods.small: two packages provide it: {both}package second-small 2.0 (second_small:Small)" in err
    with pytest.raises(UserError, match="two packages provide it"):
        METHODS["small"]
    with pytest.raises(UserError, match=r"the name 'small' of .*Made is taken by the entry point 'small'"):
        randout.register(made("small"))


MISTAKES = [
    (Method, "expected a class derived from randout.Method"),
    (3, "expected a class derived from randout.Method"),
    (randout.Mixout(), r"found the instance Mixout\(...\), expected the class: Mixout"),
    (made(""), "has no `name`"),
    (made("x", summary=" "), "has no `summary`"),
    (made("My Noise"), "found 'My Noise'; expected lower-case words joined by hyphens"),
    (made("mixout"), "'mixout' is a built-in method"),
    (made("label-smoothing"), "is a variant of another method"),
    (made("dropout"), "'dropout' is the name of a setting or reserved"),
    (made("plain"), "'plain' is the name of a setting or reserved"),
    (made("x", kind="noisy"), r"kind: found 'noisy'; expected one of gold, noise"),
    (made("x", cost="twice"), "cost: found 'twice'"),
    (made("x", losses="x"), r"losses: found 'x'; expected a tuple of names, such as \('x',\)"),
    (made("x", teacher="both"), "teacher: found 'both'"),
    (made("x", heldout=1.5), "heldout: found 1.5"),
    (made("x", trained_with=("cee",)), "trained_with: no method 'cee'"),
    (made("x", variants={"mixout": {}}), "variants: 'mixout' is taken"),
    (made("x", variants={"y": {"weight": 1}}), "variants.y: .*weight: no such setting"),
    (made("x", spaces={"y": {}}), "spaces: 'y' is not one of its variants"),
    (made("x", space={"weight": (1, 2)}), "space.weight: .*no such setting"),
    (
        type("Made", (Method,), {"name": "x", "summary": "y", "__annotations__": {"weight": float}}),
        "'weight' has no default",
    ),
]


@pytest.mark.parametrize(("method", "text"), MISTAKES, ids=[text for _, text in MISTAKES])
def test_what_cannot_be_registered(method: Any, text: str) -> None:
    with pytest.raises(UserError, match=text):
        randout.register(method)
    assert [*METHODS] == [*METHODS.built_in]


def test_registered_again() -> None:
    """The same class, and the same place defined again (a notebook's cell), but not another class of that name."""
    first, second = made("x"), made("x", summary="changed")
    assert randout.register(first) is first
    randout.register(first)
    assert METHODS["x"] is first
    randout.register(second)
    assert METHODS["x"] is second
    other = made("x")
    other.__module__ = "elsewhere"
    with pytest.raises(UserError, match=r"the name 'x' of elsewhere\.Made is taken by .*test_registry\.Made"):
        randout.register(other)


PLUGINS = [
    ("no.py", None, "no such file"),
    ("no_such_module", None, "no such file or module"),
    ("empty.py", "", "it registers no method; put @randout.register above your class"),
    ("failing.py", "\n\n1 / 0\n", "cannot be loaded: line 3: ZeroDivisionError"),
    ("wrong.py", "def f(:\n", "cannot be loaded: SyntaxError"),
    ("taken.py", source("mixout", "@__import__('randout').register"), "'mixout' is a built-in method"),
]


@pytest.mark.parametrize(("name", "code", "text"), PLUGINS, ids=[name for name, *_ in PLUGINS])
def test_what_is_no_plugin(run: Run, name: str, code: str | None, text: str) -> None:
    if code is not None:
        Path(name).write_text(code)
    status, out, err = run("methods", "--plugin", name)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: --plugin {name}: ")
    assert text in err


def test_a_method_that_is_not_here_says_what_to_do(run: Run) -> None:
    for words in (["--set", "small.weight=1"], ["--recipe", "r.toml"]):
        Path("r.toml").write_text("[methods.zzqq]\n")
        status, _, err = run("train", "no.csv", *words)
        assert status == 2
        assert "install its package or name its file with --plugin" in err


@pytest.fixture
def table(run: Run, tiny_model: Any) -> Callable[..., tuple[int, str, str]]:
    """`train` and other commands on a small table in the working folder, one epoch of a tiny student."""
    with Path("t.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *zip(*toy_texts(60, 0), strict=True)])
    small = ["--student", str(tiny_model("bert")), "--set", "epochs=1", "--set", "precision=float32"]
    return lambda command, *words: run(command, "t.csv", *small, *words)


def run_folder(pattern: str = "*") -> Path:
    (found,) = Path("runs").glob(f"{pattern}/run.json")
    return found.parent


def unfinished(folder: Path) -> None:
    """A run as it is when it was stopped before its first checkpoint."""
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"finished": None}))


def test_a_run_records_its_package_and_needs_it_to_resume(
    install: Callable[..., Path], table: Run, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = install("small-logits", source())
    asked = ["--preset", "plain", "--set", "small.weight=0.2"]
    assert table("train", *asked)[0] == 0
    folder = run_folder()
    assert "ce+small" in folder.name
    record = json.loads((folder / "run.json").read_text())
    assert record["plugins"]["small"] | {"sha256": ""} == {
        "package": "small-logits",
        "version": "1.0",
        "sha256": "",
        "file": "small_logits.py",
    }
    assert record["identity"]["plugins"]["small"].keys() == {"package", "version", "sha256"}
    assert "already trained" in table("train", *asked)[2]
    unfinished(folder)

    module = install("small-logits", source(), "1.1")
    status, _, err = run("train", "--resume", folder)
    assert status == 2
    assert (
        "methods.small comes from the package small-logits 1.0, and now it comes from the package small-logits 1.1"
        in err
    )
    status, _, err = table("train", *asked, "-o", folder)
    assert status == 2
    assert (
        "methods.small came from the package small-logits 1.0, and now it comes from the package small-logits 1.1"
        in err
    )

    module = install("small-logits", source() + "\n# changed\n")
    status, _, err = run("train", "--resume", folder)
    assert status == 2
    assert "comes from the package small-logits 1.0, and small_logits.py has changed since" in err

    module.unlink()
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(module.parent)])
    METHODS.remove("small")
    METHODS.refresh()
    status, _, err = run("train", "--resume", folder)
    assert status == 2
    assert "methods.small comes from the package small-logits 1.0, which is not installed; install it to resume" in err
    (folder / "run.json").write_text(json.dumps(record))
    for words in (["predict", folder, "a good film"], ["evaluate", folder], ["runs"], ["runs", "show", folder]):
        status, _, err = run(*words)
        assert status == 0, (words, err)


def test_a_file_edited_is_another_method(table: Run, run: Run) -> None:
    """The same command trains again; resumed without the file, the run says which one."""
    Path("small.py").write_text(source(decorator="@__import__('randout').register"))
    asked = ["--preset", "plain", "--set", "small.weight=0.2"]
    assert table("train", *asked, "--plugin", "small.py")[0] == 0
    first = run_folder()
    Path("small.py").write_text(Path("small.py").read_text().replace("self.weight *", "2 * self.weight *"))
    plugins.unload_plugins()
    status, _, err = table("train", *asked, "--plugin", "small.py")
    assert status == 0
    assert "already trained" not in err
    assert len([*Path("runs").glob("*/run.json")]) == 2
    plugins.unload_plugins()
    unfinished(first)
    status, _, err = run("train", "--resume", first)
    assert status == 2
    assert "methods.small comes from the file small.py, which is not loaded; name it with --plugin small.py" in err


def test_a_study_goes_on_with_the_same_method_only(install: Callable[..., Path], table: Run) -> None:
    install("small-logits", source())
    asked = ["--methods", "small", "--seeds", "1", "-o", "studies/small"]
    assert table("compare", *asked)[0] == 0
    record = json.loads(Path("studies/small/study.json").read_text())
    assert record["plugins"]["small"]["version"] == "1.0"
    install("another", source("other"), point="other")
    assert table("compare", *asked)[0] == 0, "a package that the study does not use"
    install("small-logits", source(), "1.1")
    status, _, err = table("compare", *asked)
    assert status == 2
    assert "methods.small changed since this study was started (small-logits 1.0 then, small-logits 1.1 now)" in err


def test_arms_do_not_name_methods_that_no_arm_uses(install: Callable[..., Path]) -> None:
    """Or a study could not be resumed once another package is installed; an arm is without the base's methods all the same."""
    install("small-logits", source())
    tables = {"base": {"methods": {"small": {"weight": 0.5}}}, "methods": ["mixout"], "seeds": [1]}
    arms = spec.make_study(tables).arms
    assert arms["mixout"]["methods"]["small"] is False
    assert spec.arm_config(spec.make_study(tables), "mixout", METHODS).methods.keys() == {"ce", "mixout"}
    install("another", source("other"), point="other")
    assert spec.make_study(tables).arms == arms
    assert {"small", "other"} <= catalog.entries().keys()


def test_stopped_with_a_plugin_says_the_whole_command(table: Run) -> None:
    Path("small.py").write_text(source(decorator="@__import__('randout').register"))
    words = ["--preset", "plain", "--set", "small.weight=0.2", "--plugin", "small.py", "--time-limit", "0s"]
    _, _, err = table("train", *words)
    assert f"randout train --resume {run_folder()} --plugin small.py" in err
