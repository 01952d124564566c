"""Run by the Python that has vLLM: a task as JSON on standard input, answers as JSON on the last line of output.

Imports nothing of genopt or of the tests, because that Python has neither.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    from vllm import LLM, SamplingParams

    task = json.load(sys.stdin)
    engine = LLM(
        model=task["model"],
        dtype="float32",
        max_model_len=1024,
        enforce_eager=True,
        kv_cache_memory_bytes=2**27,
        block_size=32,
        max_num_seqs=64,
        max_num_batched_tokens=8192,
        use_tqdm_on_load=False,
    )
    greedy = SamplingParams(temperature=0, max_tokens=task["max_tokens"])
    outputs = engine.chat(task["conversations"], greedy, use_tqdm=False)
    answers = [{"text": o.outputs[0].text, "prompt_tokens": len(o.prompt_token_ids)} for o in outputs]
    print(json.dumps(answers), flush=True)
    engine.llm_engine.engine_core.shutdown()


if __name__ == "__main__":
    main()
