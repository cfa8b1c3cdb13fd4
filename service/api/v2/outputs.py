"""The protocol's outputs: those of the graph, and those of the decision if the model has a trust reference.

decision: (N, 1), 0 accept, 1 review, 2 reject. prediction_set: (N, C), 1 for a class in the set. novelty: (N, 2),
distance from known cells and its p-value.
"""

from model.contract import Manifest
from model.trust.decision import Decision

Shape = tuple[int, ...]

DECISIONS: dict[Decision, int] = {"accept": 0, "review": 1, "reject": 2}
DECISION_OUTPUTS = ("decision", "prediction_set", "novelty")


def output_names(manifest: Manifest) -> tuple[str, ...]:
    """Names of all outputs, those of the graph first."""
    return manifest.output_names if manifest.trust is None else (*manifest.output_names, *DECISION_OUTPUTS)


def row_shape(manifest: Manifest, output: str) -> Shape:
    """The shape of one picture's part of an output."""
    if output in DECISION_OUTPUTS:
        return {"decision": (1,), "prediction_set": (len(manifest.codes),), "novelty": (2,)}[output]
    return tuple(int(size) for size in manifest.outputs[output][1:])
