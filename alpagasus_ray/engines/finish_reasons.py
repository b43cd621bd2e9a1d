"""How a reply ended, in one word for all providers.

The words that are known stand here, as the providers document them; whatever is none of them is passed on as it is, and whoever
reads replies treats it as no good end (`base.FINISH_REASONS`).
"""

from alpagasus_ray.engines.base import CONTENT_FILTER, LENGTH, REFUSAL, STOP

ERROR = "error"
"""The server broke off: no reply at all."""
MISSING = "not told"
"""What stands where a server gives no finish reason."""
WORDS = {
    STOP: ("stop", "eos", "eos_token", "stop_sequence", "end_turn", "complete", "completed"),
    LENGTH: ("length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"),
    REFUSAL: ("refusal", "refused"),
    CONTENT_FILTER: (
        *("content_filter", "content_filtered", "guardrail_intervened", "error_toxic", "sensitive"),
        *("safety", "recitation", "blocklist", "prohibited_content", "spii"),
    ),
    ERROR: ("error", "server_error", "network_error", "insufficient_system_resource"),
}
"""Ours -> the words of OpenAI, vLLM, TGI, Anthropic, Mistral, Cohere, Bedrock, Gemini, DeepSeek and Zhipu, in small letters."""
_OURS = {word: ours for ours, words in WORDS.items() for word in words}


def finish_reason(said: object) -> str:
    """One of `FINISH_REASONS`, `ERROR`, or the provider's own word where it is none that is known."""
    if said is None or said == "":
        return MISSING
    return _OURS.get(str(said).strip().lower(), str(said))
