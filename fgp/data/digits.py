"""Source `digits`: 1,797 handwritten digits that come with scikit-learn; nothing to download."""

import numpy as np

from fgp.data.source import ArrayPart, Request, Source

_TRAIN_SHARE = 0.8
_LARGEST = 16


def read_digits() -> tuple[np.ndarray, np.ndarray, int]:
    """Return images uint8 (1797, 8, 8) scaled from 0..16 to 0..255, labels int64 (1797,), and the number of training digits.

    The training digits are the first 80 % by position. The file lists the digits writer by writer, so that the test digits come
    from other people (but for the one writer at the boundary) than the training digits; a random split would mix them.
    Source: scikit-learn's `load_digits`, the test part of "Optical Recognition of Handwritten Digits" (UCI).
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / _LARGEST)).astype(np.uint8)
    return images, digits.target.astype(np.int64), int(len(images) * _TRAIN_SHARE)


def digits(request: Request) -> Source:
    """Build source `digits`: three equal channels, 32x32 unless a size is asked for.

    The first 80 % by position, and so by writer, are the training digits; see `read_digits`.
    """
    images, labels, train = read_digits()
    images = np.repeat(images[..., None], 3, axis=3)
    return Source(
        task="classification",
        classes=tuple("0123456789"),
        outputs=10,
        train=ArrayPart(images[:train], labels[:train], "digits train"),
        test=ArrayPart(images[train:], labels[train:], "digits test"),
        default_size=(32, 32),
    )
