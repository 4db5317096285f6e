"""Language models that train themselves: sample answers, vote, reward agreement with the vote, update."""

import os

# The trainer has no torch, by design; transformers would say so at every start.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
