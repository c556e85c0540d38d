"""Networks that begin anew."""

import pytest
import torch
from torch import nn

from fedkd.errors import SettingsError
from fedkd.models import reinitialised


def test_a_layer_that_cannot_begin_anew_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    with pytest.raises(SettingsError, match=r"layer '1' \(Odd\) cannot be reinitialised"):
        reinitialised(nn.Sequential(nn.Linear(2, 2), Odd()), 0)
