"Poisson flow generative models: derived, exact, fast, in notebooks."

__version__ = "0.1.0"

import os

# Before torch is imported: its waiting threads sleep instead of spinning. On a machine that does anything else besides,
# spinning makes a training step many times slower; on an idle one it gains nothing that we could measure.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pfgm.training import Model, TrainConfig, fit, train  # noqa: E402

__all__ = ["Model", "TrainConfig", "fit", "train"]
