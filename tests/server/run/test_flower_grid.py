"""Cards in Flower's messages: what a teacher predicts is read as it was told."""

import pytest

from tests.support import flower_nodes  # noqa: F401  # sets Flower's variables first

from flwr.app import ConfigRecord  # isort: skip

from fedkd.server.run.flower_grid import _card


@pytest.mark.parametrize(
    ("told", "predicts"),
    [({"embedding": True}, "embedding"), ({}, "classes"), ({"embedding": 7}, "classes")],
)
def test_a_card_tells_whether_its_teacher_outputs_an_embedding(
    told: dict[str, bool | int], predicts: str
) -> None:
    plain = {"name": "north", "classes": 32, "class_names": list[str](), "shape": [1, 8, 8]}
    assert _card(ConfigRecord({**plain, **told})).predicts == predicts  # type: ignore[dict-item]
