"""Whether torchrun started this process as one of several; free of torch."""

import os


def launched() -> bool:
    """Tell whether this is one of several processes that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
