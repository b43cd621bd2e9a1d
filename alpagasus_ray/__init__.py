"""Rate an instruction dataset with an LLM judge, keep the best of it, finetune on it and show whether that was right."""

__version__ = "0.1.0"
