"""harness suggest WORKLOAD: hyperparameters that published laws predict, without a trial."""

from harness.catalog.definition import Definition, define, load_workload, scales_of, tree_of
from harness.cli.arguments import parser
from harness.errors import UserError
from harness.system.command_line import race

FITTED = 6e7  # parameters of the smallest model that the law was fitted to


def run(arguments: list[str]) -> int:
    """Print the learning rate and batch that the Step Law predicts for a language workload."""
    reader = parser(
        "suggest",
        "Predict AdamW's learning rate and batch from sizes, by the Step Law (arXiv 2503.04715).",
        "submission=step_law races with these values.",
    )
    reader.add_argument("workload", help="a language workload's name or file")
    reader.add_argument(
        "--scale", help="mini, small, base or full; the first that it has if left out"
    )
    reader.add_argument("--variant", help="a variant of the workload")
    asked = reader.parse_args(arguments)
    tree = tree_of(asked.workload)
    definition = define(asked.workload, tree, asked.scale or scales_of(tree)[0], asked.variant)
    for line in lines(definition):
        print(line)
    return 0


def lines(definition: Definition) -> list[str]:
    """Return what is predicted for a workload, in words.

    Raises:
        UserError: the workload does not train a language model from scratch.
    """
    block = definition.block
    context = block.get("model", {}).get("context")
    if context is None or definition.track != "train":
        raise UserError(
            f"{definition.key} is not the training of a language model from scratch, which the "
            "Step Law predicts for",
            "a workload of the track train whose model has a context, such as gpt2",
            "harness suggest gpt2",
        )
    # it imports torch
    from harness import scaling

    size, batch = parameters(definition), block["batch"]
    tokens = block["horizon"] * batch * context
    lr, best = scaling.step_law(size, tokens)
    note = "" if size >= FITTED else f"  (extrapolated: fitted to {FITTED:.0e} and more)"
    command = race(
        [],
        workload=definition.place or definition.name,
        scale=definition.scale,
        variant=definition.variant,
        submission="step_law",
    )
    return [
        f"{definition.key}: predicted by the Step Law, arXiv 2503.04715",
        f"  N  {size:,} parameters without embeddings{note}",
        f"  D  {tokens:,} tokens: {block['horizon']:,} steps of {batch} x {context}",
        f"  lr {lr:.3g}",
        f"  batch {best:,.0f} tokens: {best / (batch * context):.2f} times the workload's",
        "race it:",
        f"  {command}",
    ]


def parameters(definition: Definition) -> int:
    """Return the number of the model's parameters without embeddings; no weight is made."""
    import torch

    from harness import roles, scaling

    module = load_workload(definition)
    with torch.device("meta"):
        model = module.model(definition.config)
    known = roles.of(model)
    names, params = zip(*model.named_parameters(), strict=True)
    return scaling.without_embeddings(params, [known[name] for name in names])
