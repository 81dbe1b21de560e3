"Poisson flow generative models: derived, exact, fast, in notebooks."

__version__ = "0.1.0"
