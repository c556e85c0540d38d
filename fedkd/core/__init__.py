"""Core of a run: plan, sample bank, checkpointed state, device, schedules, plug-ins.

Also the interfaces by which the loop meets the parts of a method, and the values between them.
"""

from fedkd.core.augmentation import NO_AUGMENTATION, Augmentation, jittered
from fedkd.core.bank import Bank
from fedkd.core.batch_norm import batch_norm_layers, evaluated_by_batch_statistics, recalibrated
from fedkd.core.checkpoint_state import Part, State, Stateful, gather, scatter
from fedkd.core.device import CPU, Compute, Precision, device_of
from fedkd.core.domain import Domain
from fedkd.core.interfaces import (
    Aggregation,
    AggregationSpec,
    BaseSource,
    BaseStudentPart,
    Clock,
    Context,
    Prior,
    Record,
    SampleWeights,
    Selection,
    Source,
    SourceSpec,
    Spec,
    Stateless,
    StudentPart,
)
from fedkd.core.loop_driver import PAUSE, drive
from fedkd.core.plugins import entry_point_factory, entry_point_names, import_factory
from fedkd.core.request_counts import RequestCounts
from fedkd.core.run_plan import Distilled, Plan, Progress, Watch
from fedkd.core.schedules import Schedule, constant, ramp
from fedkd.core.seen_samples import SeenSamples, sample_keys
from fedkd.core.source_types import (
    AnsweredBatch,
    Cost,
    FollowUps,
    Fusion,
    Needs,
    Proposal,
    Turn,
)
from fedkd.core.task import Loss, Score, Task

__all__ = [
    "CPU",
    "NO_AUGMENTATION",
    "PAUSE",
    "Aggregation",
    "AggregationSpec",
    "AnsweredBatch",
    "Augmentation",
    "Bank",
    "BaseSource",
    "BaseStudentPart",
    "Clock",
    "Compute",
    "Context",
    "Cost",
    "Distilled",
    "Domain",
    "FollowUps",
    "Fusion",
    "Loss",
    "Needs",
    "Part",
    "Plan",
    "Precision",
    "Prior",
    "Progress",
    "Proposal",
    "Record",
    "RequestCounts",
    "SampleWeights",
    "Schedule",
    "Score",
    "SeenSamples",
    "Selection",
    "Source",
    "SourceSpec",
    "Spec",
    "State",
    "Stateful",
    "Stateless",
    "StudentPart",
    "Task",
    "Turn",
    "Watch",
    "batch_norm_layers",
    "constant",
    "device_of",
    "drive",
    "entry_point_factory",
    "entry_point_names",
    "evaluated_by_batch_statistics",
    "gather",
    "import_factory",
    "jittered",
    "ramp",
    "recalibrated",
    "sample_keys",
    "scatter",
]
