"""A search request: a recipe and the settings that vary. Does not import PyTorch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from randout.core.config import Config, build
from randout.core.errors import UserError
from randout.experiments.run.run_request import with_fixed_teacher
from randout.methods.builtin import METHODS

from .space import SearchTable, Settings, Space, space_of, tables_of


@dataclass(frozen=True)
class Search:
    """A search. config: the recipe under every trial. required: methods that must not be left out."""

    config: Config
    table: SearchTable
    space: Space
    required: frozenset[str] = frozenset()

    def trial_config(self, settings: Settings) -> Config:
        """Return the configuration of a trial; its teacher is trained as in the recipe, whatever the trial changes."""
        tables = self.config.model_dump(mode="json")
        return with_fixed_teacher(build([tables, tables_of(settings, METHODS)], METHODS), self.config, METHODS)


def make_search(config: Config, table: SearchTable, required: Collection[str] = ()) -> tuple[Search, list[str]]:
    """Return a search, and the settings of its space whose method is not in the recipe. Raises UserError.

    required: methods that were requested by name. A method whose settings vary is required too: without a teacher, all
    trials of a setting of distillation would be the same.
    """
    space, absent = space_of(table, config, METHODS)
    name = config.teacher.model
    if name not in ("auto", "none") and not any(METHODS[method].teacher for method in config.methods):
        raise UserError(f"--teacher {name}: no method of this recipe learns from a teacher. Leave it out")
    if config.teacher.more and not any(METHODS[method].several for method in config.methods):
        raise UserError("teacher.more: no method of this recipe learns from several teachers. Leave it out")
    config = with_fixed_teacher(config, config, METHODS)
    train = (
        config.train if config.train.refit is True else config.train.model_copy(update={"refit": False})
    )  # a refit would double the cost
    closed = config.model_copy(update={"output": config.output.model_copy(update={"test": False}), "train": train})
    varied = {name.partition(".")[0] for name in space} & set(METHODS)
    return Search(closed, table, space, frozenset(required) | varied), absent


def check_space(search: Search) -> None:
    """Raise UserError if no setting is left to vary."""
    if not search.space:
        raise UserError(
            "search.space: no method of this recipe has any of these settings, so there is nothing to search"
        )
