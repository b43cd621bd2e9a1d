"""The pyarrow schema of every hand-off between stages."""

import pyarrow as pa

from alpagasus_ray.store.reply import COLUMNS, schema_fields

USED = schema_fields("finish_reason", "tokens_in", "tokens_out", "tokens_cached", "cost_usd")
SERVED = schema_fields("model", "fingerprint")
COUNTED = schema_fields("latency_s", "attempts", "maybe_billed_twice")
ADDED = schema_fields(*(name for name in COLUMNS if name not in {field.name for field in (*USED, *SERVED, *COUNTED)}))
"""What a reply leaves in its row (`store/reply.py`), in the order in which files have it. Columns that came later are at the
end, and older files lack them."""

TURN = pa.struct([("instruction", pa.string()), ("output", pa.string())])

EXAMPLES = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),  # <source>:<zero-padded row>[.<turn>]
        pa.field("content_hash", pa.string(), nullable=False),  # of everything a judge or trainer would see
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("input", pa.string(), nullable=False),
        pa.field("output", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("system", pa.string()),
        pa.field("history", pa.list_(TURN)),  # the turns before this one, oldest first
        pa.field("source", pa.string(), nullable=False),  # <file>#<position in it, from 1>
        pa.field("row", pa.int64(), nullable=False),  # number of the record over all files of the source, from 0
        pa.field("duplicate_of", pa.string()),  # example_id of the first example with the same content
        pa.field("learn", pa.list_(pa.bool_())),  # for each turn of history, whether it is trained on too; null: none is
        pa.field("record", pa.string()),  # as it came, as JSON (`originals.py`); null: the record before, or the triple is all
    ]
)
"""Runs of an earlier version have no `learn` and no `record`: `conformed` fills them in."""

PROBABILITY = pa.struct([("score", pa.float64()), ("probability", pa.float64())])

REJECTED = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),  # record or line number in the file, from 1
        pa.field("reason", pa.string(), nullable=False),
        pa.field("record", pa.string(), nullable=False),  # as JSON, its first 2,000 characters
    ]
)

RATINGS = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("request_hash", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # scored, unparsed, refused, truncated, failed, not_asked
        pa.field("score", pa.float64()),  # null unless scored
        pa.field("expected_score", pa.float64()),  # mean over the judge's own probabilities; null unless asked for
        pa.field("probabilities", pa.list_(PROBABILITY)),  # of every score on the scale; they sum to 1
        pa.field("outside", pa.float64()),  # probability that a reply that is free does not begin with one of them
        pa.field("reply", pa.string()),  # raw; null when none was received
        pa.field("logprobs", pa.string()),  # raw, as JSON: text so far -> text that may come next -> log probability
        *USED,
        *SERVED,
        *COUNTED,
        pa.field("error", pa.string()),  # why there is no score
        *ADDED,
    ]
)

CASCADED = pa.schema(  # ratings of which a part comes from a cheaper judge
    [
        *RATINGS,
        pa.field("first_score", pa.float64()),  # of the judge that is asked first
        pa.field("above_band", pa.bool_()),  # kept without asking, for it lies above the rows around the cut
    ]
)

PROMPTS = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("test_set", pa.string(), nullable=False),
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("input", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("skill", pa.string()),
        pa.field("difficulty", pa.int32()),  # as the test set counts it
        pa.field("reference", pa.string()),  # an answer that the test set holds to be good
        pa.field("source", pa.string(), nullable=False),  # <file>#<position in it>
    ]
)

ANSWERS = pa.schema(
    [
        *PROMPTS,
        pa.field("request_hash", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # answered, empty, truncated, refused, failed
        pa.field("reply", pa.string()),  # the answer, without what the model thought; null when there is none
        *USED,
        *COUNTED,
        *SERVED,
        pa.field("error", pa.string()),  # why there is no answer
        pa.field("raw", pa.string()),  # the reply as it came, where that is another text; files may lack it
        *ADDED,
    ]
)

PAIRS = pa.schema(  # one row a game: a prompt with two models' answers, in the order in which a judge sees them
    [
        *(PROMPTS.field(name) for name in ("prompt_id", "test_set", "instruction", "input", "category", "skill", "difficulty")),
        PROMPTS.field("reference"),
        pa.field("order", pa.string(), nullable=False),  # ab: the first model's answer stands first; ba: the second's
        pa.field("first", pa.string()),  # the answers as shown; null where a model has none
        pa.field("second", pa.string()),
    ]
)

VERDICTS = pa.schema(  # one row a game
    [
        *(PAIRS.field(name) for name in ("prompt_id", "test_set", "category", "skill", "difficulty", "order")),
        pa.field("request_hash", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # judged, unparsed, refused, truncated, unanswered, failed
        pa.field("winner", pa.string()),  # a, b, tie: the models, whatever the order; null unless judged
        pa.field("score_a", pa.float64()),  # null where the verdict has no scores
        pa.field("score_b", pa.float64()),
        pa.field("words_a", pa.int32()),  # of the answers, between blanks, as earlier versions measured; null without one
        pa.field("words_b", pa.int32()),
        pa.field("reply", pa.string()),  # raw; null when none was received
        *USED,
        *COUNTED,
        *SERVED,
        pa.field("error", pa.string()),  # why there is no verdict
        *ADDED,
        pa.field("length_a", pa.int64()),  # of the answers, in characters; null without one; files may lack them
        pa.field("length_b", pa.int64()),
    ]
)

QUESTIONS = pa.schema(  # one row a request of a benchmark
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("document_id", pa.string(), nullable=False),  # several questions may be about one document
        pa.field("kind", pa.string(), nullable=False),  # generate, score, rolling
        pa.field("context", pa.string(), nullable=False),  # a text; for chat models messages as JSON
        pa.field("continuations", pa.list_(pa.string()), nullable=False),  # of `score`: texts whose probability is asked for
        pa.field("options", pa.string(), nullable=False),  # of `generate`: max_tokens, stop, …, as JSON
    ]
)

BENCHMARK_REPLIES = pa.schema(  # one row a request
    [
        *(QUESTIONS.field(name) for name in ("question_id", "document_id")),
        pa.field("request_hash", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # answered, empty, truncated, refused, failed
        pa.field("reply", pa.string()),  # of `score` pairs of log probability and whether it is the likeliest, as JSON
        pa.field("raw", pa.string()),  # as it came, where that differs
        *USED,
        *SERVED,
        *COUNTED,
        pa.field("error", pa.string()),  # why there is no reply
        *ADDED,
    ]
)

BENCHMARKS = pa.schema(  # one row a document
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("subset", pa.string(), nullable=False),  # MMLU's subject; empty where there are none
        pa.field("cluster", pa.string()),  # documents with the same one depend on each other; null: they do not
        pa.field("status", pa.string(), nullable=False),  # the least good of its replies: answered, …, failed
        pa.field("score", pa.float64()),  # null where the measure has no figure for one document
        pa.field("measures", pa.string(), nullable=False),  # all of them, as JSON
        pa.field("prediction", pa.string()),  # as it was read off the reply
        pa.field("target", pa.string(), nullable=False),
        pa.field("document", pa.string(), nullable=False),  # as it came, as JSON
        pa.field("error", pa.string()),  # what went wrong with its replies, or with its program
    ]
)

DROPPED = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)

TOKENS = pa.schema(  # Arrow IPC files, so that they can be mapped into memory
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),  # the first so many carry no loss
    ]
)

MASKED = pa.field("masked", pa.list_(pa.int32()))
"""Of TOKENS, where an example has several answers to learn: places behind the prompt without loss: from, up to, from, …"""

CURVE = pa.schema(  # one row an update
    [
        pa.field("step", pa.int64(), nullable=False),  # from 1
        pa.field("epoch", pa.float64(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),  # mean over the label tokens of the update
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("grad_norm", pa.float64()),  # before it is scaled down; null where DeepSpeed does not tell (ZeRO 0, float32)
        pa.field("examples", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),  # of the examples, padding left out
        pa.field("label_tokens", pa.int64(), nullable=False),
        pa.field("padding", pa.int64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("tokens_per_s", pa.float64(), nullable=False),
        pa.field("mfu", pa.float64()),  # of all workers' devices; null where their peak is not known
    ]
)

SUBSET = pa.schema(
    [
        *(field for field in EXAMPLES if field.name != "record"),
        pa.field("score", pa.float64()),
        pa.field("expected_score", pa.float64()),
    ]
)


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a schema, in its order; those that an earlier version did not write are null."""
    columns = [table[field.name] if field.name in table.column_names else pa.nulls(len(table), field.type) for field in schema]
    return pa.table(columns, names=schema.names).cast(schema)
