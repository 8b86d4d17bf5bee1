"""Optuna's tree-structured Parzen estimator, one trial at a time.

Optuna's storage is not used: its study is rebuilt from the earlier trials, and the sampler is seeded with the trial's
number, so that a proposal is a function of (space, earlier trials, seed, number).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from randout.core.errors import UserError
from randout.core.rng import random_key
from randout.storage.study_record import Trial


def suggest(space: Mapping[str, Any], before: Sequence[Trial], seed: int, number: int, sign: float) -> dict[str, Any]:
    """Return the settings of trial `number`.

    before: the earlier trials. sign: factor for a trial's value, because TPE minimises. Raises UserError if Optuna is not
    installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            "--sampler tpe: needs Optuna. Install it with: pip install 'randout[search]', or use --sampler grid"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=random_key(seed, "tpe", number) % 2**32, n_startup_trials=5)
    study = optuna.create_study(sampler=sampler)
    over = {name: _distribution(values) for name, values in space.items()}
    for trial in before:
        if trial.value is None or trial.state == "failed":
            continue
        params = {name: _as_parameter(space[name], trial.settings[name]) for name in space}
        last = trial.rungs[-1].step if trial.rungs else trial.step
        state = optuna.trial.TrialState.COMPLETE if trial.state == "finished" else optuna.trial.TrialState.PRUNED
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions=over,
                state=state,
                value=sign * trial.value if trial.state == "finished" else None,
                intermediate_values={last: sign * trial.value},
            )
        )
    found = study.ask(over).params
    return {name: json.loads(found[name]) if isinstance(space[name], list) else found[name] for name in space}


def _distribution(values: Any) -> Any:
    """Return Optuna's distribution: categories for a list (as JSON, because it takes scalars only), numbers for a range."""
    import optuna

    if isinstance(values, list):
        return optuna.distributions.CategoricalDistribution([json.dumps(value) for value in values])
    low, high, log = values["low"], values["high"], bool(values.get("log", False))
    if isinstance(low, int) and isinstance(high, int):
        return optuna.distributions.IntDistribution(low, high, log=log)
    return optuna.distributions.FloatDistribution(float(low), float(high), log=log)


def _as_parameter(values: Any, value: Any) -> Any:
    return json.dumps(value) if isinstance(values, list) else value
