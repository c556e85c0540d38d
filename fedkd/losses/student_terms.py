"""Terms of what students say and see. They are here, so nobody is asked. All are minimised."""

from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.losses.term import Batch, Term


def disagreement() -> Term:
    """Negative deviation of what students believe; low: they disagree, one of them is wrong.

    The deviation is the sample's, over M - 1.
    """

    def value(b: Batch) -> Tensor:
        if b.students is None:
            raise SettingsError("term disagreement needs students; give the method peers")
        return -b.students.softmax(2).std(0).mean()

    return Term("disagreement", "-mean_b mean_c std_m softmax(S_m(x_b))_c", frozenset(), value)


def distinctness() -> Term:
    """Surprise at which of many images another view shows; low: each can be told by its view."""

    def value(b: Batch) -> Tensor:
        if b.distinctness is None:
            raise SettingsError("term distinctness needs a discrimination; give the method one")
        return b.distinctness

    equation = "mean_i CE(v_i . V / tau, i), v, V = |h(S(view of x))|, |h(S(x))|"
    return Term("distinctness", equation, frozenset(), value)
