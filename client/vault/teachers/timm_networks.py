"""Teacher format ``timm:NAME``: a network of timm, weights from a safetensors file or its cache.

``timm:resnet18.a1_in1k`` without ``weights`` means the published ones, where the cache already
has them as safetensors. Nothing is downloaded, and no pickle is read.
"""

from pathlib import Path
from typing import Any

from fedkd.client.vault.teachers.adapters.torch_module_teacher import (
    load_weights,
    module_teacher,
    preserving_rng_state,
)
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError
from fedkd.models import ModuleTeacher, timm_factory


def open_timm(spec: TeacherSpec, name: str) -> ModuleTeacher:
    """See the module.

    Raises:
        SettingsError: timm is not installed, has no such network, or refuses the options.
        DataError: the weights are not there, or do not fit.
    """
    factory = timm_factory(name)
    network: Any = preserving_rng_state(lambda: factory(spec.classes, spec.shape, **spec.options))
    path = spec.path(spec.weights) if spec.weights else _cached(network.pretrained_cfg, spec)
    load_weights(network, path)
    return module_teacher(network, spec)


def _cached(published: Any, spec: TeacherSpec) -> Path:
    """Where the cache keeps the published weights of a network."""
    from huggingface_hub import try_to_load_from_cache

    repository = published.get("hf_hub_id") if isinstance(published, dict) else None
    found = try_to_load_from_cache(repository, "model.safetensors") if repository else None
    if not isinstance(found, str):
        raise DataError(
            f"{spec.source} is not in timm's cache, and nothing is downloaded; fetch it with "
            f"timm.create_model(NAME, pretrained=True), or give weights"
        )
    return Path(found)
