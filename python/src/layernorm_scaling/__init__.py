"""What is the depth of your language model worth?

```python
import layernorm_scaling as lns

diagnosis = lns.diagnose("SmolLM2.gguf", text="book.txt")
print(diagnosis.verdict.text)
diagnosis.to_pandas()  # a row for each layer
```

The functions call the program `lns`, which comes with this package. `layernorm_scaling.torch` has LayerNorm Scaling for
PyTorch.
"""

from ._program import InputError, LnsError, find_program
from .records import (
    Conversion,
    Diagnosis,
    Evaluation,
    Inspection,
    Layer,
    Loss,
    Plan,
    Removal,
    StreamPoint,
    Study,
    Tensor,
    TrainedRun,
    Verdict,
)
from .verbs import diagnose, eval, fold, inspect, prune, retrofit, study, train

__all__ = [
    "Conversion",
    "Diagnosis",
    "Evaluation",
    "InputError",
    "Inspection",
    "Layer",
    "LnsError",
    "Loss",
    "Plan",
    "Removal",
    "StreamPoint",
    "Study",
    "Tensor",
    "TrainedRun",
    "Verdict",
    "diagnose",
    "eval",
    "find_program",
    "fold",
    "inspect",
    "prune",
    "retrofit",
    "study",
    "train",
]
