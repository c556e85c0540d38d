"""Further views of synthesised images: their features at one institution, and the way back.

A term may compare images by the teacher's features of parts of them. One institution has a space of
features; of several the spaces do not match, and no term asks several.
"""

from collections.abc import Callable, Generator, Mapping

import torch
from torch import Tensor

from fedkd.protocol import Answers, Ask, Request, Signal
from fedkd.synthesis.parameterisation import to_bytes
from fedkd.synthesis.teacher_gradients import PULL_BACK, Point

FEATURES = frozenset({Signal.FEATURES})


def asked_views(
    views: Mapping[int, Tensor], answers: Answers
) -> Generator[Request, Answers, dict[int, Tensor]]:
    """Ask for the features of views (B', C, H, W); leaves (B', D), by the keys of ``views``.

    Args:
        views: in [0, 1]; asked about as bytes.
        answers: to the images that they are views of, of one institution.
    """
    seen = {}
    for key, images in views.items():
        replies = yield Ask(to_bytes(images), FEATURES, exact=True)
        for name in answers.keys() & replies.keys():
            features = replies[name].signals[Signal.FEATURES].to(images.device)
            seen[key] = features.float().detach().requires_grad_()
    return seen


def pulled_views(
    views: Mapping[int, Tensor],
    seen: Mapping[int, Tensor],
    answers: Answers,
    dropped: Callable[[str], None],
) -> Generator[Request, Answers, None]:
    """Bring the gradients that ``seen`` holds back through the teacher, into the views' graph.

    Rounding to bytes is passed straight through, as that of the images themselves is.

    Args:
        views: as they were given to `asked_views`.
        seen: the leaves that came of it.
        answers: to the images that they are views of, of one institution.
        dropped: told of an institution whose gradient is not believed.
    """
    for key, leaf in seen.items():
        if leaf.grad is None:
            continue
        cotangents = {name: {Signal.FEATURES: leaf.grad.cpu()} for name in answers}
        nobody = torch.Generator()  # a pull-back draws nothing
        point = Point(
            to_bytes(views[key]), answers, cotangents, lambda x: x, nobody, dropped=dropped
        )
        slope = yield from PULL_BACK.pull(point)
        torch.autograd.backward(views[key], slope.to(views[key]))
