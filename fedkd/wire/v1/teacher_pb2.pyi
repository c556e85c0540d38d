from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    DTYPE_UINT8: _ClassVar[DType]
    DTYPE_FLOAT16: _ClassVar[DType]
    DTYPE_FLOAT32: _ClassVar[DType]
    DTYPE_ROWS: _ClassVar[DType]
    DTYPE_TRIANGLE: _ClassVar[DType]

class Signal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIGNAL_UNSPECIFIED: _ClassVar[Signal]
    SIGNAL_LOGITS: _ClassVar[Signal]
    SIGNAL_BN_GAP: _ClassVar[Signal]
    SIGNAL_FEATURES: _ClassVar[Signal]
    SIGNAL_RELATIONS: _ClassVar[Signal]
    SIGNAL_ACTIVATION: _ClassVar[Signal]

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_FORBIDDEN: _ClassVar[Reason]
    REASON_SPENT: _ClassVar[Reason]
    REASON_TOO_LARGE: _ClassVar[Reason]
    REASON_MALFORMED: _ClassVar[Reason]
    REASON_FAILED: _ClassVar[Reason]
    REASON_CLOSED: _ClassVar[Reason]
    REASON_RATE: _ClassVar[Reason]
    REASON_UNDRAWN: _ClassVar[Reason]
DTYPE_UNSPECIFIED: DType
DTYPE_UINT8: DType
DTYPE_FLOAT16: DType
DTYPE_FLOAT32: DType
DTYPE_ROWS: DType
DTYPE_TRIANGLE: DType
SIGNAL_UNSPECIFIED: Signal
SIGNAL_LOGITS: Signal
SIGNAL_BN_GAP: Signal
SIGNAL_FEATURES: Signal
SIGNAL_RELATIONS: Signal
SIGNAL_ACTIVATION: Signal
REASON_UNSPECIFIED: Reason
REASON_FORBIDDEN: Reason
REASON_SPENT: Reason
REASON_TOO_LARGE: Reason
REASON_MALFORMED: Reason
REASON_FAILED: Reason
REASON_CLOSED: Reason
REASON_RATE: Reason
REASON_UNDRAWN: Reason

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    dtype: DType
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, dtype: _Optional[_Union[DType, str]] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Said(_message.Message):
    __slots__ = ("signal", "tensor")
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    signal: Signal
    tensor: Tensor
    def __init__(self, signal: _Optional[_Union[Signal, str]] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Guarantee(_message.Message):
    __slots__ = ("epsilon", "delta", "steps", "noise_multiplier", "sampling_rate", "clipping", "unit", "adjacency", "mechanism", "accountant", "version", "unpromised")
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_RATE_FIELD_NUMBER: _ClassVar[int]
    CLIPPING_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    ADJACENCY_FIELD_NUMBER: _ClassVar[int]
    MECHANISM_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTANT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UNPROMISED_FIELD_NUMBER: _ClassVar[int]
    epsilon: float
    delta: float
    steps: int
    noise_multiplier: float
    sampling_rate: float
    clipping: float
    unit: str
    adjacency: str
    mechanism: str
    accountant: str
    version: int
    unpromised: int
    def __init__(self, epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., steps: _Optional[int] = ..., noise_multiplier: _Optional[float] = ..., sampling_rate: _Optional[float] = ..., clipping: _Optional[float] = ..., unit: _Optional[str] = ..., adjacency: _Optional[str] = ..., mechanism: _Optional[str] = ..., accountant: _Optional[str] = ..., version: _Optional[int] = ..., unpromised: _Optional[int] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "low", "high", "whole", "levels")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    low: float
    high: float
    whole: bool
    levels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., whole: bool = ..., levels: _Optional[_Iterable[str]] = ...) -> None: ...

class Number(_message.Message):
    __slots__ = ("name", "unit", "low", "high", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    unit: str
    low: float
    high: float
    error: float
    def __init__(self, name: _Optional[str] = ..., unit: _Optional[str] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., error: _Optional[float] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("name", "kind", "class_names")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAMES_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    class_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., class_names: _Optional[_Iterable[str]] = ...) -> None: ...

class Card(_message.Message):
    __slots__ = ("name", "classes", "channels", "height", "width", "signals", "pull_back", "samples", "largest_batch", "class_counts", "scores", "class_names", "guarantee", "recipes", "columns", "numbers", "fedkd_version", "tasks", "embedding", "batch_statistics")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    PULL_BACK_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    LARGEST_BATCH_FIELD_NUMBER: _ClassVar[int]
    CLASS_COUNTS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAMES_FIELD_NUMBER: _ClassVar[int]
    GUARANTEE_FIELD_NUMBER: _ClassVar[int]
    RECIPES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    FEDKD_VERSION_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    BATCH_STATISTICS_FIELD_NUMBER: _ClassVar[int]
    name: str
    classes: int
    channels: int
    height: int
    width: int
    signals: _containers.RepeatedScalarFieldContainer[Signal]
    pull_back: bool
    samples: int
    largest_batch: int
    class_counts: _containers.RepeatedScalarFieldContainer[int]
    scores: bool
    class_names: _containers.RepeatedScalarFieldContainer[str]
    guarantee: Guarantee
    recipes: int
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    numbers: _containers.RepeatedCompositeFieldContainer[Number]
    fedkd_version: str
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    embedding: bool
    batch_statistics: bool
    def __init__(self, name: _Optional[str] = ..., classes: _Optional[int] = ..., channels: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., signals: _Optional[_Iterable[_Union[Signal, str]]] = ..., pull_back: bool = ..., samples: _Optional[int] = ..., largest_batch: _Optional[int] = ..., class_counts: _Optional[_Iterable[int]] = ..., scores: bool = ..., class_names: _Optional[_Iterable[str]] = ..., guarantee: _Optional[_Union[Guarantee, _Mapping]] = ..., recipes: _Optional[int] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., numbers: _Optional[_Iterable[_Union[Number, _Mapping]]] = ..., fedkd_version: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., embedding: bool = ..., batch_statistics: bool = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "token", "card")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    version: int
    token: str
    card: Card
    def __init__(self, version: _Optional[int] = ..., token: _Optional[str] = ..., card: _Optional[_Union[Card, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "packing")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PACKING_FIELD_NUMBER: _ClassVar[int]
    version: int
    packing: int
    def __init__(self, version: _Optional[int] = ..., packing: _Optional[int] = ...) -> None: ...

class Procedural(_message.Message):
    __slots__ = ("name", "warp", "mix")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WARP_FIELD_NUMBER: _ClassVar[int]
    MIX_FIELD_NUMBER: _ClassVar[int]
    name: str
    warp: float
    mix: float
    def __init__(self, name: _Optional[str] = ..., warp: _Optional[float] = ..., mix: _Optional[float] = ...) -> None: ...

class Network(_message.Message):
    __slots__ = ("latent", "digest", "weights")
    LATENT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    latent: int
    digest: bytes
    weights: Tensor
    def __init__(self, latent: _Optional[int] = ..., digest: _Optional[bytes] = ..., weights: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Recipe(_message.Message):
    __slots__ = ("prior", "network", "seed", "count", "kept", "images")
    PRIOR_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    prior: Procedural
    network: Network
    seed: int
    count: int
    kept: bytes
    images: bytes
    def __init__(self, prior: _Optional[_Union[Procedural, _Mapping]] = ..., network: _Optional[_Union[Network, _Mapping]] = ..., seed: _Optional[int] = ..., count: _Optional[int] = ..., kept: _Optional[bytes] = ..., images: _Optional[bytes] = ...) -> None: ...

class Ask(_message.Message):
    __slots__ = ("id", "images", "signals", "reply_dtype", "recipe", "batch_statistics")
    ID_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    REPLY_DTYPE_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    BATCH_STATISTICS_FIELD_NUMBER: _ClassVar[int]
    id: int
    images: Tensor
    signals: _containers.RepeatedScalarFieldContainer[Signal]
    reply_dtype: DType
    recipe: Recipe
    batch_statistics: bool
    def __init__(self, id: _Optional[int] = ..., images: _Optional[_Union[Tensor, _Mapping]] = ..., signals: _Optional[_Iterable[_Union[Signal, str]]] = ..., reply_dtype: _Optional[_Union[DType, str]] = ..., recipe: _Optional[_Union[Recipe, _Mapping]] = ..., batch_statistics: bool = ...) -> None: ...

class PullBack(_message.Message):
    __slots__ = ("id", "images", "cotangents", "batch_statistics")
    ID_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    COTANGENTS_FIELD_NUMBER: _ClassVar[int]
    BATCH_STATISTICS_FIELD_NUMBER: _ClassVar[int]
    id: int
    images: Tensor
    cotangents: _containers.RepeatedCompositeFieldContainer[Said]
    batch_statistics: bool
    def __init__(self, id: _Optional[int] = ..., images: _Optional[_Union[Tensor, _Mapping]] = ..., cotangents: _Optional[_Iterable[_Union[Said, _Mapping]]] = ..., batch_statistics: bool = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("id", "signals", "gradient")
    ID_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    id: int
    signals: _containers.RepeatedCompositeFieldContainer[Said]
    gradient: Tensor
    def __init__(self, id: _Optional[int] = ..., signals: _Optional[_Iterable[_Union[Said, _Mapping]]] = ..., gradient: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("id", "reason", "text")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    id: int
    reason: Reason
    text: str
    def __init__(self, id: _Optional[int] = ..., reason: _Optional[_Union[Reason, str]] = ..., text: _Optional[str] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class ConnectRequest(_message.Message):
    __slots__ = ("hello", "reply", "refusal", "close", "payload")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    reply: Reply
    refusal: Refusal
    close: Close
    payload: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., payload: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ConnectResponse(_message.Message):
    __slots__ = ("welcome", "ask", "pull_back", "close", "payload")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    PULL_BACK_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    ask: Ask
    pull_back: PullBack
    close: Close
    payload: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., ask: _Optional[_Union[Ask, _Mapping]] = ..., pull_back: _Optional[_Union[PullBack, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., payload: _Optional[_Iterable[bytes]] = ...) -> None: ...
