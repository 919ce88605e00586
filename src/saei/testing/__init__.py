"""The contract suite: one check per kind of strategy, the same for saei's own and for anyone's.

```python
@pytest.mark.parametrize("config", registered("selector"), ids=lambda config: config.type)
def test_contract(config):
    check_selector(config)
```

A check builds the strategy of a config and raises an ``AssertionError`` that names the rule it breaks.
``check_strategy(config)`` is the check of the config's kind, with the built-in model where a policy is needed.
"""

from saei.testing.attacks import check_attack
from saei.testing.controls import check_control
from saei.testing.criteria import check_criterion
from saei.testing.data import check_reward, check_task, check_template
from saei.testing.decoders import check_decoder
from saei.testing.kinds import builtin_policy, builtin_views, check_strategy
from saei.testing.objective_parts import check_advantage, check_weight
from saei.testing.objectives import check_objective, check_term
from saei.testing.rules import registered
from saei.testing.samplers import check_sampler
from saei.testing.selectors import check_selector
from saei.testing.slots import check_gate, check_guard, check_strength
from saei.testing.statistics import check_statistic
from saei.testing.surfaces import check_surface

__all__ = [
    "builtin_policy",
    "builtin_views",
    "check_advantage",
    "check_attack",
    "check_control",
    "check_criterion",
    "check_decoder",
    "check_gate",
    "check_guard",
    "check_objective",
    "check_reward",
    "check_sampler",
    "check_selector",
    "check_statistic",
    "check_strategy",
    "check_strength",
    "check_surface",
    "check_task",
    "check_template",
    "check_term",
    "check_weight",
    "registered",
]
