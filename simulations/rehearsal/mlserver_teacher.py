"""A teacher model for MLServer: runs in the server's environment and imports nothing of fedkd.

Its ``uri`` is an .npz file with the images and labels of one institution. It fits a classifier on
them when the server starts, so that no pickled model is needed.
"""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from sklearn.ensemble import ExtraTreesClassifier

CLASSES = 10


# mlserver's types are not installed where mypy runs.
class ServedTeacher(MLModel):  # type: ignore[misc]
    """(B, C, H, W) floats in [0, 1] -> probabilities (B, 10)."""

    async def load(self) -> bool:
        """Fit on the institution's images."""
        with np.load(self.settings.parameters.uri, allow_pickle=False) as data:
            flat, labels = data["images"].reshape(len(data["images"]), -1) / 255.0, data["labels"]
        self._model = ExtraTreesClassifier(300, random_state=0).fit(flat, labels)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Probabilities of all classes; 0 for classes that it was not trained on."""
        images = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        probabilities = np.zeros((len(images), CLASSES), np.float32)
        probabilities[:, self._model.classes_] = self._model.predict_proba(
            images.reshape(len(images), -1)
        )
        output = NumpyCodec.encode_output("probabilities", probabilities)
        return InferenceResponse(model_name=self.name, outputs=[output])
