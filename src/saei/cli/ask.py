"""``saei ask``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from saei.cli.one_question import Further, Image, Question, Responses, Seed, Template, configuration, load, pictures
from saei.cli.options import AsJson, Assignments, Plugins, Trust
from saei.cli.reads import ASK
from saei.console import say
from saei.errors import printable


def ask(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run, one of its checkpoints, a model folder, a hub id or builtin.")
    ],
    image: Image,
    question: Question,
    further: Further = None,
    responses: Responses = 1,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, metavar="T", help="0 is greedy; by default the policy's own.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Longest response; by default the policy's own limit.")
    ] = None,
    seed: Seed = 0,
    template: Template = None,
    set_: Assignments = None,
    plugin: Plugins = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Ask a policy one question about a picture."""
    from saei.config.overrides import nested

    limit = [] if max_new_tokens is None else [nested("sampling.max_new_tokens", max_new_tokens)]
    config = configuration(
        model, limit, set_ or [], plugin or [], template=template, trust=trust, reads=ASK, leave_out=("sampler",)
    )
    policy = load(config)
    drawn = policy.ask(pictures(image, further), question, responses=responses, temperature=temperature, seed=seed)
    if not as_json:
        for number, response in enumerate(drawn, 1):
            entropy = float(response.entropy_T.mean()) if len(response) else 0.0
            cut = ", cut off by the length limit" if response.truncated else ""
            say(f"{number}: {len(response)} tokens, entropy {entropy:.3f} nats per token{cut}")
            say(printable(response.text) or "(empty)")
        return
    from saei.report.tokens import token_pieces

    rows = [
        {
            "text": response.text,
            "truncated": response.truncated,
            "entropy": float(response.entropy_T.mean()) if len(response) else None,
            "ids": response.ids_T.tolist(),
            "pieces": token_pieces(policy.tokenizer, response.ids_T.tolist()),
            "logp": response.behaviour_logp_T.tolist(),
            "entropies": response.entropy_T.tolist(),
        }
        for response in drawn
    ]
    report = {
        "model": config.model.path,
        "template": config.template.model_dump(mode="json"),
        "question": question,
        "temperature": config.sampling.temperature if temperature is None else temperature,
        "seed": seed,
        "responses": rows,
    }
    print(json.dumps(report, indent=2))
