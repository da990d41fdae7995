"""Bootstrap intervals, as `rag_embed.evaluation` computes them."""

from rag_embed.evaluation.bootstrap import RESAMPLES, mean_interval

__all__ = ["RESAMPLES", "mean_interval"]
