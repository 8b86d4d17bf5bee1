"""Checks of a method for its author: what every method of randout keeps, run on one of your own.

In a test of yours, with pytest or without:

    import randout.testing
    from my_package import MyPenalty

    def test_contract():
        randout.testing.check_method(MyPenalty(weight=0.5), neutral={"weight": 0.0})

`CHECKS` names the promises; randout's own methods are tested with the same code. `build`, `toy_texts` and `training`
help with further tests: tiny encoders, texts, and a training run.
"""

from __future__ import annotations

from .contract import CHECKS, Bench, Case, ContractError, check_method
from .models import build, toy_texts

__all__ = ["CHECKS", "Bench", "Case", "ContractError", "build", "check_method", "toy_texts"]
