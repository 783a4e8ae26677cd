"""Published power laws that predict hyperparameters from the size of a run."""

from collections.abc import Iterable

from torch import Tensor

from harness.roles import Role


def step_law(parameters: float, tokens: float) -> tuple[float, float]:
    """Return the best learning rate of AdamW and the best batch, in tokens, of a language model.

    The Step Law, arXiv 2503.04715: lr = 1.79·N^(−0.713)·D^0.307, batch = 0.58·D^0.571, fitted to
    models of 60 million parameters and more with β (0.9, 0.95), weight decay 0.1, a warm-up and a
    cosine to 1e-5. Smaller models are extrapolated.

    Args:
        parameters: N, without embeddings and readout.
        tokens: D, that the whole run trains on.
    """
    if parameters <= 0 or tokens <= 0:
        raise ValueError(f"parameters={parameters} and tokens={tokens} must be above 0")
    return 1.79 * parameters**-0.713 * tokens**0.307, 0.58 * tokens**0.571


def without_embeddings(params: Iterable[Tensor], roles: Iterable[Role]) -> int:
    """Return the number of elements of the parameters that are neither embedding nor readout."""
    pairs = zip(params, roles, strict=True)
    return sum(p.numel() for p, role in pairs if role.kind not in ("embedding", "readout"))
