"""Export of the student: safetensors and ONNX, with a comparison of the two.

Images are float32 in [0, 1], ``(B, C, H, W)``; normalisation is inside the model.
"""

import contextlib
import copy
import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedkd.process.private_files import make_private

METADATA = "fedkd"
"""Key of what both files say of the student."""
PARITY_IMAGES = 256
"""Random images on which the two runtimes are compared."""


def save_student(
    module: nn.Module,
    folder: Path,
    shape: tuple[int, int, int],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write the weights to ``student.safetensors`` atomically.

    The file's metadata has one key, ``fedkd``: a JSON object with the class of the model, the image
    shape ``CxHxW``, and what ``metadata`` adds (a name in `fedkd.models.registry`, say). Nothing in
    the file can run code. The same weights give the same bytes.
    """
    path = folder / "student.safetensors"
    temporary = path.with_name(f".{path.name}.part")
    # Clones, since the format refuses weights that share memory.
    weights = {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
    try:
        # One key, since the format writes several in a random order.
        save_file(weights, temporary, {METADATA: _notes(module, shape, metadata)})
        make_private(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _notes(
    module: nn.Module, shape: tuple[int, int, int], metadata: Mapping[str, str] | None
) -> str:
    """What both files say of the student, as JSON."""
    notes = {
        "model": type(module).__name__,
        "shape": "x".join(str(side) for side in shape),
        "input": "float32 images in [0, 1]",
        **(metadata or {}),
    }
    return json.dumps(notes, sort_keys=True)


def export_onnx(
    module: nn.Module,
    path: Path,
    shape: tuple[int, int, int],
    rng: torch.Generator,
    metadata: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write the student as ONNX with a free batch size, and compare it with torch.

    The file's metadata have the key of `save_student`, with the same content.

    Returns ``max_difference`` (largest absolute difference of a logit on `PARITY_IMAGES` random
    images), ``argmax_agreement`` (share of them with the same class, in [0, 1]) and ``images``;
    or ``skipped``, a reason on one line: a student without its ONNX twin is still a student.
    """
    missing = [
        name
        for name in ("onnx", "onnxruntime", "onnxscript")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        return {"skipped": "install fedkd[onnx]"}
    model = copy.deepcopy(module).cpu().eval()
    try:
        with _quiet():
            _export(model, path, torch.rand((2, *shape), generator=rng))
            _write_metadata(path, _notes(module, shape, metadata))
        for file in path.parent.glob(f"{path.name}*"):  # weights may lie beside a large one
            make_private(file)
    except torch.onnx.OnnxExporterError as error:
        path.unlink(missing_ok=True)
        cause = type(error.__cause__ or error).__name__
        return {"skipped": f"torch cannot export {type(module).__name__} ({cause})"}
    return _compare(model, path, torch.rand((PARITY_IMAGES, *shape), generator=rng))


def _export(model: nn.Module, path: Path, images: Tensor) -> None:
    torch.onnx.export(
        model,
        (images,),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _write_metadata(path: Path, notes: str) -> None:
    import onnx  # an extra, and slow to import

    written = onnx.load(path, load_external_data=False)  # weights beside it stay where they are
    onnx.helper.set_model_props(written, {METADATA: notes})
    onnx.save(written, path)


def _compare(model: nn.Module, path: Path, images: Tensor) -> dict[str, Any]:
    import onnxruntime  # an extra, and slow to import

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )
    theirs = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.no_grad():
        ours = model(images)
    return {
        "max_difference": float((ours - theirs).abs().max()),
        "argmax_agreement": float((ours.argmax(1) == theirs.argmax(1)).float().mean()),
        "images": len(images),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's output, logs and warnings, but not its errors."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
