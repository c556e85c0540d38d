"""A teacher that MLServer serves: runs in the environment of the server, imports nothing of ours.

Its ``uri`` is an .npz of one institution's images and labels; it fits a classifier on them as the
server starts, so that no pickle is needed to bring a model in.
"""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from sklearn.ensemble import ExtraTreesClassifier

CLASSES = 10


# mlserver's types are not installed where ours are checked.
class ServedTeacher(MLModel):  # type: ignore[misc]
    """(B, C, H, W) floats in [0, 1] -> probabilities (B, 10)."""

    async def load(self) -> bool:
        """Fit on the institution's images."""
        with np.load(self.settings.parameters.uri, allow_pickle=False) as own:
            flat, labels = own["images"].reshape(len(own["images"]), -1) / 255.0, own["labels"]
        self._model = ExtraTreesClassifier(300, random_state=0).fit(flat, labels)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Probabilities of all classes; those that it never saw have 0."""
        images = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        said = np.zeros((len(images), CLASSES), np.float32)
        said[:, self._model.classes_] = self._model.predict_proba(images.reshape(len(images), -1))
        output = NumpyCodec.encode_output("probabilities", said)
        return InferenceResponse(model_name=self.name, outputs=[output])
