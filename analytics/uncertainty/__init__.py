"""How sure a metric is: bootstrap intervals over texts, and what it would be if languages made no difference.

Both resample what each text contributes, never the corpus: the samples of one layer are read once, text by text, and
every replicate is a product of two matrices (weights of texts x counts of texts). Texts with the same id are drawn
together in all languages, so that comparisons of languages stay comparisons of the same texts.
"""

from moetrace.analytics.uncertainty.bootstrap import bootstrap
from moetrace.analytics.uncertainty.curves import count_curves, translation_curves
from moetrace.analytics.uncertainty.null_model import null_model

__all__ = ["bootstrap", "count_curves", "null_model", "translation_curves"]
