"""What was seen in an epoch so far: the sums of its losses and hits, over all processes, which outlive an interruption.

Knows tensors, and that each process has sums of its own. Knows no network, and no logger. Lightning's own means are
those since the run was picked up, and of 3 pictures on 2 devices they divide by 1 (integers, in 2.6).
"""

import torch
from torch import Tensor

from training.data.sampler import DataParallel
from training.fit.distributed import all_gather


class EpochSums:
    """Sums of this process over its pictures: losses, hits, and the pictures."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """A batch: its mean loss, logits (N, C) and labels (N,)."""
        pictures = torch.tensor(float(len(labels)), device=loss.device)
        hits = (logits.argmax(dim=1) == labels).sum().float()
        self.sums = self.sums.to(loss.device) + torch.stack((loss.detach().float() * pictures, hits, pictures))

    def close(self) -> tuple[Tensor, Tensor]:
        """Mean loss and accuracy over the pictures of all processes; what comes next begins at nothing."""
        loss, hits, pictures = self.state().sum(dim=0)
        self.sums = torch.zeros_like(self.sums)
        return loss / pictures, hits / pictures

    def state(self) -> Tensor:
        """(processes, 3), for a checkpoint: a row a process, so that what goes on adds up to the same bits."""
        return all_gather(self.sums)

    def load(self, state: Tensor | None, share: DataParallel) -> None:
        """Go on from a checkpoint. Where it is of another number of processes, the first takes over all sums.

        Args:
            state: None in a checkpoint of an earlier version.
        """
        if state is None:
            return
        if len(state) == share.devices:
            self.sums = state[share.rank].clone()
        elif share.rank == 0:
            self.sums = state.sum(dim=0)
