"""What rows of lm-eval know about a model that is none."""

from __future__ import annotations

from oellm.frameworks.lm_eval.messages import Handle
from oellm.models.identity import HubIdentity


def make_handle() -> Handle:
    """Return the handle of a model on a GPU that gives its answers without computing them."""
    return Handle(
        backend="hf",
        arguments="pretrained=acme/coder",
        info={"model_num_parameters": 1},
        tokenizer_info={"eot_token_id": 0},
        light_attributes=b"",
        is_multimodal=False,
        identity=HubIdentity("c" * 40),
        accelerator={"gpus": [{"name": "H200"}]},
        dtype="bfloat16",
        seconds=1.0,
        staged_s=None,
    )
