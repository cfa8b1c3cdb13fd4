"""Time the artefact's network in PyTorch, eager, with random weights.

The training run of the bundled artefact is not in the repository, and speed does not depend on the weights. Settings
(https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html): inference mode, channels last, as many threads
as the servers have.
"""

from collections.abc import Callable

import torch

from bench.engines.timing import Images, Task, task, time_batches
from model.lite import LiteVAN

VARIANT = "van_mlka_lite0"
CLASSES = 21


def network(asked: Task) -> Callable[[Images], object]:
    """The whole ONNX graph in PyTorch, from uint8 (N, S, S, 3) to the outputs."""
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    net = LiteVAN(VARIANT, CLASSES).eval().to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run(images: Images) -> object:
        planes = torch.from_numpy(images).permute(0, 3, 1, 2).float()  # (N, S, S, 3) -> (N, 3, S, S)
        out = net((planes / 255 - 0.5) / 0.5)
        return torch.softmax(out.logits, dim=1), out

    return run


if __name__ == "__main__":
    asked = task()
    images = asked.decoded()
    run = network(asked)
    time_batches("pytorch", "eager", asked, images, lambda _: run)
