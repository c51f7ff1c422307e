"""A tally of right answers."""

from collections import Counter


class Score:
    """Counts right answers by name: over all, and over those of held-out combinations."""

    def __init__(self) -> None:
        self.right: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.held_right: Counter[str] = Counter()
        self.held_asked: Counter[str] = Counter()

    def count(self, name: str, right: bool, held_out: bool = False) -> None:
        """Count one answer."""
        self.asked[name] += 1
        self.right[name] += right
        if held_out:
            self.held_asked[name] += 1
            self.held_right[name] += right

    def shares(self) -> dict[str, float]:
        """The share of right answers, 0 to 1, of every name and of every "name (held out)"."""
        every = {name: self.right[name] / asked for name, asked in self.asked.items()}
        held = {f"{name} (held out)": self.held_right[name] / asked for name, asked in self.held_asked.items()}
        return {name: round(share, 4) for name, share in sorted((every | held).items())}
