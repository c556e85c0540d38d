"""Values that coordinator and institutions exchange: requests, replies, signals, cards.

Also the recipes of synthetic samples, label spaces, quantisation of logits and DP guarantees.
"""

from fedkd.protocol.card import MAX_NAME_LENGTH, Card, card_violation
from fedkd.protocol.guarantee import Guarantee
from fedkd.protocol.label_spaces import (
    LabelSpaces,
    abbreviated,
    check_growth,
    check_outputs,
    class_names_of,
    common_shape,
    label_spaces_of,
    new_classes,
)
from fedkd.protocol.logit_quantisation import quantised
from fedkd.protocol.recipes import RECIPE_VERSION, FrozenGenerator, NamedPrior, Recipe
from fedkd.protocol.relations import cosine_relations
from fedkd.protocol.requests import (
    Answers,
    Ask,
    PullBack,
    Reason,
    Refusal,
    Reply,
    Request,
    digest,
    fingerprint,
    with_batch_statistics,
    without_recipe,
)
from fedkd.protocol.signals import SCALARS, WHOLE_BATCH, Signal, as_float, rounded
from fedkd.protocol.tables import (
    Column,
    Number,
    check_table,
    decode_numbers,
    decode_rows,
    encode_numbers,
    encode_rows,
    level_index,
    recorded_columns,
    recorded_numbers,
)
from fedkd.protocol.tasks import (
    NamedTask,
    named_tasks,
    output_names_of,
    task_slices,
    tasks_of_outputs,
)

__all__ = [
    "MAX_NAME_LENGTH",
    "RECIPE_VERSION",
    "SCALARS",
    "WHOLE_BATCH",
    "Answers",
    "Ask",
    "Card",
    "Column",
    "FrozenGenerator",
    "Guarantee",
    "LabelSpaces",
    "NamedPrior",
    "NamedTask",
    "Number",
    "PullBack",
    "Reason",
    "Recipe",
    "Refusal",
    "Reply",
    "Request",
    "Signal",
    "abbreviated",
    "as_float",
    "card_violation",
    "check_growth",
    "check_outputs",
    "check_table",
    "class_names_of",
    "common_shape",
    "cosine_relations",
    "decode_numbers",
    "decode_rows",
    "digest",
    "encode_numbers",
    "encode_rows",
    "fingerprint",
    "label_spaces_of",
    "level_index",
    "named_tasks",
    "new_classes",
    "output_names_of",
    "quantised",
    "recorded_columns",
    "recorded_numbers",
    "rounded",
    "task_slices",
    "tasks_of_outputs",
    "with_batch_statistics",
    "without_recipe",
]
