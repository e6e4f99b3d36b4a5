"""What scoring came to, and where its time went: told by whoever scored, read without torch."""

from dataclasses import dataclass, field, fields


@dataclass
class StageSeconds:
    """Where the time of a scoring run went, in seconds.

    Attributes:
        reading: waiting for chunks from the lake.
        packing: waiting for rows to be built.
        backbone: the model without its head.
        head: logits, log-sum-exp and sums.
        writing: waiting for finished rows to be kept.
    """

    reading: float = 0.0
    packing: float = 0.0
    backbone: float = 0.0
    head: float = 0.0
    writing: float = 0.0

    @property
    def slowest(self) -> str:
        """Name of the longest stage."""
        return max(fields(self), key=lambda stage: getattr(self, stage.name)).name

    @property
    def scorer(self) -> float:
        """Seconds of the scorer itself: all but reading and writing."""
        return self.packing + self.backbone + self.head


@dataclass
class Scored:
    """What scoring a partition came to.

    Attributes:
        chunks: chunks scored.
        tokens: their tokens, prefixes not counted.
        elapsed: seconds in all.
        seconds: where they went.
        packing_efficiency: tokens over computed places.
        overflowed: chunks that were not finite in 16 bits, scored in float32.
        fraction_of_ceiling: floating-point operations a second over the machine's matrix products; None where unknown.
    """

    chunks: int = 0
    tokens: int = 0
    elapsed: float = 0.0
    seconds: StageSeconds = field(default_factory=StageSeconds)
    packing_efficiency: float = 1.0
    overflowed: int = 0
    fraction_of_ceiling: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens over elapsed seconds."""
        return self.tokens / max(self.elapsed, 1e-9)

    @property
    def sentence(self) -> str:
        """One line for the log."""
        ceiling = self.fraction_of_ceiling
        share = "" if ceiling is None else f", {ceiling:.0%} of what the machine's matrix products reach"
        return (
            f"{self.chunks:,} chunks of {self.tokens:,} tokens scored in {self.elapsed:,.1f} s: "
            f"{self.tokens_per_second:,.0f} tokens/s{share}; slowest stage: {self.seconds.slowest}"
        )
