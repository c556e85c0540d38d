"""Whether answers show the classes that an institution claims to know: claimed counts are refuted.

Source: ours.
"""

from torch import Tensor

TOP_SHARE = 1 / 20
"""Share of the samples on which a class shows most, by which it is measured."""
LEAST_CONTRAST = 0.05
"""A class that nobody shows more than this, nobody shows."""
SHOWN = (0.1, 0.3)
"""Of the sureness of whoever shows the class most: refuted at the first, granted at the second."""
ALWAYS = 0.9
"""Share of the samples that an institution with a single class has to give to that class."""


def class_contrast(probability: Tensor) -> Tensor:
    """How much each institution's answers vary in a class: (T, N, K) probabilities -> (T, K).

    The mean probability on the twentieth of the samples where it is highest, less that on the
    lower half.
    """
    ordered = probability.sort(1).values
    top = max(1, round(TOP_SHARE * ordered.shape[1]))
    return (ordered[:, -top:].mean(1) - ordered[:, : ordered.shape[1] // 2].mean(1)).double()


def shown_classes(contrast: Tensor, trusted: Tensor) -> Tensor:
    """How far each institution's answers show that it knows a class. (T, K) in [0, 1].

    Relative to whoever shows the class most, and at least to `LEAST_CONTRAST`: 0 below a tenth of
    that, 1 above three tenths, in quarters between.

    Args:
        contrast: (T, K), see `class_contrast`.
        trusted: (T, K) bool; others are no measure, and show nothing.
    """
    contrast = contrast * trusted
    low, high = SHOWN
    relative = contrast / contrast.max(0).values.clamp_min(LEAST_CONTRAST)
    return (((relative - low) / (high - low)).clamp(0.0, 1.0) * 4).floor() / 4


def answers_its_only_class(log_p: Tensor, claimed: Tensor) -> Tensor:
    """Whether each institution gives nearly every sample to the one class that it claims.

    Such answers tell nothing of a sample. They lift the class, which others have seldom seen, as
    far as its count goes; a liar can do no more than that either.

    Args:
        log_p: (T, N, K).
        claimed: (T, K) counts.

    Returns:
        (T,) bool, of use where one class alone is claimed.
    """
    given = log_p.argmax(-1) == claimed.argmax(-1)[:, None]
    return given.double().mean(1) >= ALWAYS
