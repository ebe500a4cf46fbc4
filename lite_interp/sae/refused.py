"""Sparse coders that are known and not read, and why.

    temporal   canrager/temporalSAEs, conf.yaml and latest_ckpt.safetensors with D, E, b,
               attn_layers.*: an activation depends on all tokens before it, so it is none of a
               token's vector alone
    hook_z     ckkissane's coders of GPT-2's heads, <name>.pt and <name>_cfg.json: TransformerLens
               folded the bias of the values into the output, so its z is another vector

To read either as if it were an ordinary coder gives activations that look right and are wrong.
"""

from __future__ import annotations

from pathlib import Path

from lite_interp.errors import CoderError, one_line
from lite_interp.sae.files import look


def reason_against(file: Path) -> CoderError | None:
    """Why the coder in a file of weights is not read; None if nothing is known against it."""
    held = look(file)
    if any(name.startswith("attn_layers.") for name in held):
        return CoderError(
            f"sparse coder works on whole sequences, which is not read: {one_line(file)}",
            "its attn_layers.* look at all tokens before one, a sparse coder here at one token; "
            "there is no setting that makes up for it",
        )
    config = file.with_name(f"{file.stem}_cfg.json")
    if (
        file.suffix == ".pt"
        and config.is_file()
        and {"W_enc", "W_dec", "b_enc", "b_dec"} <= {*held}
    ):
        return CoderError(
            f"sparse coder of attention heads trained on TransformerLens' hook_z is not read: "
            f"{one_line(file)}",
            "there the bias of the values is folded into the output, so that the subject's own z "
            "is another vector: every activation would be off",
        )
    return None
