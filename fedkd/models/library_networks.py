"""Networks of timm and torchvision by name, with fresh weights.

Nothing is downloaded. A network of timm's reads images of any number of channels, and of any size
that it allows; those of torchvision read colour.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from torch import nn

from fedkd.errors import SettingsError
from fedkd.models.architectures import Shape

NetworkFactory: TypeAlias = Callable[..., nn.Module]
"""From K, (C, H, W), and options by name."""


def timm_factory(name: str) -> NetworkFactory:
    """The factory of a network of timm's; its options are those of ``timm.create_model``.

    Raises:
        SettingsError: timm is not installed, or has no such network.
    """
    try:
        import timm
    except ImportError as error:
        raise SettingsError("timm is not installed; install fedkd[timm]") from error

    if not timm.is_model(name):
        raise _unknown("timm has no network", name, timm.list_models(), "its list")

    def build(classes: int, shape: Shape, **options: Any) -> nn.Module:
        given = {"num_classes": classes, "in_chans": shape[0], **_size(name, shape), **options}
        return _built(f"timm:{name}", lambda: timm.create_model(name, pretrained=False, **given))

    return build


def torchvision_factory(name: str) -> NetworkFactory:
    """The factory of a classifier of torchvision's; its options are those of ``get_model``.

    Raises:
        SettingsError: torchvision is not installed, or has no such classifier.
    """
    try:
        from torchvision import models
    except ImportError as error:
        raise SettingsError("torchvision is not installed; install fedkd[vision]") from error

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision has no classifier", name, known, "torchvision.models")

    def build(classes: int, shape: Shape, **options: Any) -> nn.Module:
        if shape[0] != 3:
            raise SettingsError(
                f"torchvision:{name} reads images of 3 channels, and these have {shape[0]}; choose "
                "a network of timm or of ours"
            )
        given = {"num_classes": classes, **options}
        return _built(f"torchvision:{name}", lambda: models.get_model(name, weights=None, **given))

    return build


LIBRARIES: Mapping[str, Callable[[str], NetworkFactory]] = {
    "timm": timm_factory,
    "torchvision": torchvision_factory,
}
"""By the prefix of a name, before its colon."""


def _size(name: str, shape: Shape) -> dict[str, Any]:
    """The size of images, where a network is built for one size and theirs is another."""
    import timm

    published = timm.get_pretrained_cfg(name)
    if published is None or not published.fixed_input_size or published.input_size[1:] == shape[1:]:
        return {}
    return {"img_size": shape[1:]}


def _built(name: str, build: Callable[[], Any]) -> nn.Module:
    """A network; initial weights come from torch's global generator."""
    try:
        network: nn.Module = build()
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise SettingsError(f"{name}: {first}; correct its options, or choose another") from error
    return network


def _unknown(what: str, name: str, known: Iterable[str], instead: str) -> SettingsError:
    close = ", ".join(difflib.get_close_matches(name, list(known))) or instead
    return SettingsError(f"{what} {name!r}; see {close}")
