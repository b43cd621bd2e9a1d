"""The text that Alpaca's models are trained on and asked with (tatsu-lab/stanford_alpaca, `train.py`, PROMPT_DICT).

A published format: models finetuned on it expect it to the letter.
"""

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


def alpaca_prompt(instruction: str, input_text: str) -> str:
    """The prompt of an instruction and its input, which may be empty."""
    return (WITH_INPUT if input_text else WITHOUT_INPUT).format(instruction=instruction, input=input_text)


ALPACA_CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{%- elif message['role'] == 'user' %}{{ '" + WITHOUT_INPUT.partition("{instruction}")[0].replace("\n", "\\n") + "' }}"
    "{{- message['content'] + '" + WITHOUT_INPUT.partition("{instruction}")[2].replace("\n", "\\n") + "' }}"
    "{%- else %}{{ message['content'] + eos_token }}"
    "{%- endif %}"
    "{%- endfor %}"
)
"""The same as a chat template, for models that were trained on it: a user's turn is an instruction without an input."""
