"""Which extra of fedkd brings a package that is not installed.

An institution installs ``fedkd[client]`` and no simulator. What an extra brings is imported where
it is used; where it is missing, the message has to say what to install.
"""

EXTRAS = {
    "catboost": "catboost",
    "flwr": "flower",
    "grpc_health": "metrics",
    "huggingface_hub": "timm",
    "jinja2": "report",
    "lightgbm": "lightgbm",
    "markupsafe": "report",
    "matplotlib": "report",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "opacus": "dp",
    "pandas": "pandas",
    "prometheus_client": "metrics",
    "pyarrow": "data",
    "ray": "simulation",
    "scipy": "dp",
    "sklearn": "client",
    "skl2onnx": "estimators",
    "skops": "client",
    "timm": "timm",
    "torchvision": "vision",
    "xgboost": "xgboost",
}
"""The extra that brings a package, by the name under which the package is imported."""


def missing_package(error: BaseException) -> str | None:
    """What to install where ``error`` is the lack of a package of an extra; None for any other."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.partition(".")[0]
    if package not in EXTRAS:
        return None
    return f"{package} is not installed; pip install 'fedkd[{EXTRAS[package]}]'"
