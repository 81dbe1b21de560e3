"Poisson flow generative models: derived, exact, fast, in notebooks."

__version__ = "0.1.0"

import os

# Before torch is imported: its waiting threads sleep instead of spinning. With another job on the same two cores, spinning
# made a training step 2.3 s long instead of 0.03 s.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pfgm.training import Model, TrainConfig, fit, train  # noqa: E402

__all__ = ["Model", "TrainConfig", "explore", "fit", "train"]


def explore(charges=None):
    "Open the explorer of field lines and falling particles in a notebook; see pfgm.explorer."
    from pfgm.explorer import explore
    return explore(charges)
