"""Values that coordinator and institutions exchange: requests, replies, signals, cards.

Also the recipes of synthetic samples, label spaces, quantisation of logits and DP guarantees.
"""

from fedkd.protocol.card import Card
from fedkd.protocol.guarantee import Guarantee
from fedkd.protocol.label_spaces import (
    Labels,
    check_outputs,
    common_shape,
    labels_of,
    names_of,
    some,
)
from fedkd.protocol.quantisation import on_grids
from fedkd.protocol.recipes import RECIPES, Network, Procedural, Recipe
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
    shown,
)
from fedkd.protocol.signals import Signal, as_float, rounded

__all__ = [
    "RECIPES",
    "Answers",
    "Ask",
    "Card",
    "Guarantee",
    "Labels",
    "Network",
    "Procedural",
    "PullBack",
    "Reason",
    "Recipe",
    "Refusal",
    "Reply",
    "Request",
    "Signal",
    "as_float",
    "check_outputs",
    "common_shape",
    "digest",
    "fingerprint",
    "labels_of",
    "names_of",
    "on_grids",
    "rounded",
    "shown",
    "some",
]
