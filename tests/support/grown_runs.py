"""Earlier students, and runs that go on with one, driven in this process."""

from collections.abc import Callable, Sequence

from torch import nn

from fedkd.core.earlier_student import EarlierStudent, remote_part, with_local_answer
from fedkd.methods import Method
from fedkd.models import FrozenStudent, Shape
from fedkd.protocol import Answers, Request


def earlier_student_for(
    method: Method, network: nn.Module, classes: Sequence[str], shape: Shape
) -> FrozenStudent | None:
    """A student of an earlier run where that method needs one."""
    return FrozenStudent(network, classes, shape) if method.needs.earlier_student else None


def put_beside(
    earlier: EarlierStudent | None, put: Callable[[Request], Answers]
) -> Callable[[Request], Answers]:
    """Puts a request to the institutions, and to the earlier student, if there is one."""

    def both(request: Request) -> Answers:
        remote = remote_part(earlier, request)
        return with_local_answer(earlier, request, put(remote) if remote != {} else {})

    return both
