"""Studies as the sweeper leaves them in its storage, made without training anything."""

import json
import math

import optuna
from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.trial import TrialState, create_trial

from dataecho_search.study.results import study_result

RATE = FloatDistribution(1e-3, 1e-1, log=True)
MOMENTUM = FloatDistribution(0.8, 0.99)


def new_study(cell, repeat, costs, *, space=None, objectives=("fresh_examples_to_target",), num_trials=None):
    """A study whose trials ended with ``costs``: numbers, tuples of them, or the name of what happened instead."""
    space = space if space is not None else {"optimizer.learning_rate": RATE, "optimizer.momentum": MOMENTUM}
    name = ",".join(f"{key}={value}" for key, value in cell.items()) or "all"
    study = optuna.create_study(study_name=f"{name}/{repeat}", directions=["minimize"] * len(objectives))
    study.set_user_attr("cell", cell)
    study.set_user_attr("repeat", repeat)
    study.set_user_attr("objectives", list(objectives))
    study.set_user_attr("num_trials", len(costs) if num_trials is None else num_trials)
    study.set_user_attr("space", json.dumps({key: json.loads(distribution_to_json(d)) for key, d in space.items()}))
    for number, cost in enumerate(costs):
        state = {"pruned": TrialState.PRUNED, "diverged": TrialState.FAIL, "failed": TrialState.FAIL}.get(cost)
        values = None if state else list(cost) if isinstance(cost, tuple) else [cost]
        share = (number + 1) / (len(costs) + 1)
        study.add_trial(
            create_trial(
                state=state or TrialState.COMPLETE,
                values=values,
                params={key: _point(distribution, share) for key, distribution in space.items()},
                distributions=space,
                user_attrs={
                    "folder": f"{study.study_name}/{number}",
                    "state_reason": cost if state else "completed",
                    "metrics": {"upstream_downstream_ratio": 0.5, "steps": 10.0 * number},
                    "seed": number,
                    "mlflow_run_id": None,
                },
            )
        )
    return study_result(study)


def _point(distribution, share):
    if not isinstance(distribution, FloatDistribution):
        return distribution.choices[0]
    low, high = distribution.low, distribution.high
    return math.exp(math.log(low) + share * math.log(high / low)) if distribution.log else low + share * (high - low)
