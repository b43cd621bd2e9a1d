"""The baselines: `vllm.LLM.chat` on all prompts at once, and `transformers` on one prompt at a time. No Ray, no ledger.

    python benchmarks/bare_vllm.py chat|transformers FILE

FILE is JSON: `model`, `arguments` (of `vllm.LLM`), `sampling`, `prompts` (lists of messages). Prints JSON: seconds, tokens.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def chat(asked: dict[str, Any]) -> dict[str, float]:
    """Everything in one call, as vLLM's own documentation has it; the start of the engine is not counted."""
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    sampling = dict(asked["sampling"])
    if "regex" in sampling:
        sampling["structured_outputs"] = StructuredOutputsParams(regex=sampling.pop("regex"))
    engine = LLM(model=asked["model"], **asked["arguments"])
    engine.chat(asked["prompts"][:8], SamplingParams(**sampling), use_tqdm=False)
    started = time.monotonic()
    outputs = engine.chat(asked["prompts"], SamplingParams(**sampling), use_tqdm=False)
    seconds = time.monotonic() - started
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {"seconds": seconds, "rows": len(outputs), "tokens": tokens}


def one_at_a_time(asked: dict[str, Any]) -> dict[str, float]:
    """`generate` for each prompt, as the original's generation script does."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer: Any = AutoTokenizer.from_pretrained(asked["model"])
    auto: Any = AutoModelForCausalLM
    if any(Path(asked["model"]).glob("*.safetensors")):
        model = auto.from_pretrained(asked["model"], dtype=asked["arguments"]["dtype"])
    else:  # random weights, as vLLM makes them for the same model
        kind = getattr(torch, asked["arguments"]["dtype"])
        model = auto.from_config(AutoConfig.from_pretrained(asked["model"]), dtype=kind)
    model = model.to(device)
    started, tokens = time.monotonic(), 0
    for prompt in asked["prompts"]:
        given = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True).to(
            device
        )
        longest = asked["sampling"]["max_tokens"]
        made = model.generate(**given, max_new_tokens=longest, do_sample=False, pad_token_id=tokenizer.eos_token_id)
        tokens += made.shape[1] - given["input_ids"].shape[1]
    return {"seconds": time.monotonic() - started, "rows": len(asked["prompts"]), "tokens": tokens}


if __name__ == "__main__":
    how = {"chat": chat, "transformers": one_at_a_time}[sys.argv[1]]
    print(json.dumps(how(json.loads(Path(sys.argv[2]).read_text()))))
