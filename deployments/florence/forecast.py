"""How long the next answer will be, by those before it."""

FIRST_GUESS = 64.0
SMOOTHING = 0.95


class Forecast:
    """A moving mean of the tokens of each task's answers."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def num_tokens(self, task: str) -> float:
        """Tokens that an answer to `task` will probably have."""
        return self._means.get(task, FIRST_GUESS)

    def note(self, task: str, num_tokens: int) -> None:
        """Learn from an answer."""
        mean = self.num_tokens(task)
        self._means[task] = SMOOTHING * mean + (1 - SMOOTHING) * num_tokens
