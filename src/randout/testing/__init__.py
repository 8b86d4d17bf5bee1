"""Contract checks for authors of methods: the promises that every method of randout keeps, checked on your own method.

In your test, with or without pytest:

    import randout.testing
    from my_package import MyPenalty

    def test_contract():
        randout.testing.check_method(MyPenalty(weight=0.5), neutral={"weight": 0.0})

`CHECKS` lists the promises; randout's own methods are tested with the same code. `build`, `toy_texts` and the module
`training` help with further tests: tiny encoders, toy texts, and small training runs.
"""

from __future__ import annotations

from .contract import CHECKS, Bench, Case, ContractError, check_method
from .models import build, toy_texts

__all__ = ["CHECKS", "Bench", "Case", "ContractError", "build", "check_method", "toy_texts"]
