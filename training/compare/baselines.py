"""Classical machine learning: features with names, and a classifier that knows nothing of pictures.

What a network is compared with where the question is what it adds over measuring. Knows features and labels; knows no
files and no networks. scikit-learn (BSD) learns; joblib, its own dependency, spreads the measuring over processes.
"""

from typing import Literal, Self

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.compare.features import measure

Kind = Literal["boosting", "forest", "logistic"]


class ClassicalModel:
    """Colour, texture and shape of a cell → a class, with the methods that a comparison asks for.

    Args:
        classes: width of the answer; classes without a training picture get probability 0.
        kind: boosting (gradient-boosted trees), forest (random forest) or logistic (multinomial regression on
            standardised features).
        seed: of the trees.
        processes: that measure pictures side by side.
    """

    def __init__(self, classes: int, kind: Kind = "boosting", seed: int = 0, processes: int = 1) -> None:
        self.classes = classes
        self.processes = processes
        self._learner = make_pipeline(StandardScaler(), _classifier(kind, seed))

    def fit(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Self:
        """Learn from pictures (N, S, S, 3) and their classes (N,), each class weighted alike."""
        return self.learn(self.measure(images), labels)

    def learn(self, features: NDArray[np.float64], labels: NDArray[np.int64]) -> Self:
        """The same from features that were measured before, (N, F)."""
        self._learner.fit(features, labels)
        return self

    def predict_proba(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, classes) of pictures (N, S, S, 3) of the size that was learned from."""
        found = self._learner.predict_proba(self.measure(images))
        probabilities = np.zeros((len(images), self.classes), np.float32)
        probabilities[:, self._learner.classes_] = found
        return probabilities

    def measure(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Features (N, F) of pictures (N, S, S, 3)."""
        rows = Parallel(n_jobs=self.processes)(delayed(measure)(image) for image in images)
        return np.stack(rows)


def _classifier(kind: Kind, seed: int) -> ClassifierMixin:
    if kind == "boosting":
        return HistGradientBoostingClassifier(
            max_iter=200, learning_rate=0.08, l2_regularization=1.0, class_weight="balanced", random_state=seed
        )
    if kind == "forest":
        return RandomForestClassifier(500, min_samples_leaf=2, class_weight="balanced", random_state=seed)
    return LogisticRegression(C=0.3, max_iter=2000, class_weight="balanced")
