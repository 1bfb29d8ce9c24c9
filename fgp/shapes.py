"""Running a network for its shapes only."""

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class WithoutNorms(TorchFunctionMode):
    """Batch normalisation hands on a copy of its input: on the meta device its own kernel costs milliseconds a call."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Run `func`, or copy the first argument if it is a batch normalisation."""
        return args[0].clone() if func is F.batch_norm else func(*args, **(kwargs or {}))
