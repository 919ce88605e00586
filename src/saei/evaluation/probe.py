"""The collapse probe: diversity of fresh responses to a fixed set of examples, clean view, T = 1, full vocabulary.

Never taken on training groups: adversarial responses have more entropy by construction. The probe is the same for
every method and every run of a task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from saei.data.base import Task
from saei.evaluation.answers import AnswerSet
from saei.evaluation.metrics import answer_entropy, distinct_answers, mean


def probe_metrics(answer_sets: Sequence[AnswerSet], task: Task) -> dict[str, float]:
    """Return the probe's numbers, means over examples or responses.

    ``entropy`` is the mean token entropy in nats, ``nll`` the mean -log p of a whole response in nats,
    ``answer_entropy`` in nats, ``distinct_answers`` a count per example, ``zero_variance`` the share of examples
    whose responses are all right or all wrong (``all_right``, ``all_wrong``), and ``strategy/<name>`` the share of
    responses that use each strategy the task tells apart.
    """
    responses = [response for answers in answer_sets for response in answers.responses]
    tokens = sum(map(len, responses))
    right = [all(grade.correct for grade in answers.grades) for answers in answer_sets]
    wrong = [not any(grade.correct for grade in answers.grades) for answers in answer_sets]
    strategies = Counter(
        task.strategy(answers.view.example, response.text) for answers in answer_sets for response in answers.responses
    )
    names = sorted({*task.strategies, *(name for name in strategies if name)})
    return {
        "entropy": sum(float(response.entropy_T.sum()) for response in responses) / max(1, tokens),
        "nll": mean([-float(response.behaviour_logp_T.sum()) for response in responses]),
        "answer_entropy": mean([answer_entropy(answers.grades) for answers in answer_sets]),
        "distinct_answers": mean([float(distinct_answers(answers.grades)) for answers in answer_sets]),
        "all_right": mean([float(flag) for flag in right]),
        "all_wrong": mean([float(flag) for flag in wrong]),
        "zero_variance": mean([float(flag) for flag in right]) + mean([float(flag) for flag in wrong]),
        **{f"strategy/{name}": strategies[name] / len(responses) for name in names},
    }
