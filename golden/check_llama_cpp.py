"""Holds GGUF files that `lns export` writes against llama.cpp.

    python golden/check_llama_cpp.py [--lns target/release/lns] [FOLDER ...]
    python golden/check_llama_cpp.py MODEL --text TEXT [--tokens 2048]

llama.cpp is that of the package llama-cpp-py-sync (CPU, keys and values in f32). Of each folder, by default
all stock ones of golden/tiny, a file of F32 is written and its logits on random ids held against
transformers' on the folder. With a text, MODEL (a folder or a GGUF file with a tokenizer) is exported and
llama.cpp's loss on the text, with ids of its own, is held against that of `lns eval`.
Prints a row for each model and fails when a loss differs by more than 1e-3.

Some of those folders say what no GGUF file can (`SAID` lists what it can say of each such family): random
models of these settings are made beside them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

CLOSE = 1e-3
WINDOWS, WINDOW = 8, 48
# A folder of golden/tiny, and in what the model to be written differs from it.
SAID = {
    "mistral": [dict(sliding_window=None)],
    "qwen2": [dict(use_sliding_window=False, layer_types=None)],
    "qwen2-yarn": [dict(head_dim=8)],
    "llama-yarn": [
        dict(
            rope_parameters=dict(
                rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=16
            )
        )
    ],
    "qwen3": [dict(head_dim=16)],
    "phi3": [dict(sliding_window=None), dict(sliding_window=None, head_dim=16)],
    "gemma2": [
        dict(query_pre_attn_scalar=12),
        dict(num_hidden_layers=46, head_dim=16, query_pre_attn_scalar=8, layer_types=None),
    ],
    "gemma3_text": [
        dict(
            query_pre_attn_scalar=12,
            num_hidden_layers=7,
            layer_types=[*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
        )
    ],
    "olmo2": [dict(head_dim=16)],
    "olmo3": [
        dict(
            num_hidden_layers=4,
            layer_types=[*["sliding_attention"] * 3, "full_attention"],
            rope_parameters={
                kind: dict(rope_type="default", rope_theta=5e5)
                for kind in ("full_attention", "sliding_attention")
            },
        ),
        dict(
            num_hidden_layers=4,
            layer_types=[*["sliding_attention"] * 3, "full_attention"],
            rope_parameters={
                "full_attention": dict(
                    rope_type="yarn", rope_theta=5e5, factor=8.0, original_max_position_embeddings=8
                ),
                "sliding_attention": dict(rope_type="default", rope_theta=5e5),
            },
        ),
    ],
    "gpt2": [dict(n_inner=24)],
    "gpt_neox": [dict(use_parallel_residual=False, rotary_pct=1.0)],
    "smollm3": [
        dict(
            num_hidden_layers=5, no_rope_layers=[1, 1, 1, 0, 1], layer_types=["full_attention"] * 5
        ),
        dict(
            num_hidden_layers=5,
            no_rope_layers=[1, 1, 1, 0, 1],
            layer_types=["full_attention"] * 5,
            head_dim=16,
        ),
    ],
    "glm4": [dict(head_dim=16)],
    "qwen3_moe": [dict(mlp_only_layers=[])],
    "gpt_oss": [dict(rope_parameters=dict(rope_type="default", rope_theta=150000.0))],
    "granite": [dict(head_dim=16, tie_word_embeddings=False)],
    "deepseek_v2": [
        dict(
            topk_method="greedy",
            rope_parameters=dict(
                rope_type="yarn",
                rope_theta=1e4,
                factor=4.0,
                original_max_position_embeddings=16,
                mscale=0.7,
                mscale_all_dim=0.7,
            ),
        )
    ],
    "deepseek_v2-small": [dict(num_hidden_layers=27)],
    "deepseek_v3-small": [
        dict(
            n_routed_experts=8,
            num_experts_per_tok=2,
            n_group=4,
            topk_group=2,
            norm_topk_prob=True,
            routed_scaling_factor=2.5,
            rope_interleave=True,
            attention_bias=False,
        )
    ],
}
ffi, llama = get_ffi(), get_lib()
messages = []


@ffi.callback("void(enum ggml_log_level, const char *, void *)")
def keep(level, text, _):
    messages.append(ffi.string(text).decode(errors="replace").strip())


class NotWritten(Exception):
    """`lns export` refuses the model."""


class NotRead(Exception):
    """llama.cpp refuses the file."""


class Model:
    """A GGUF file in llama.cpp."""

    def __init__(self, path, context):
        messages.clear()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama.llama_model_load_from_file(str(path).encode(), params)
        if self.model == ffi.NULL:
            raise NotRead(next((line for line in messages if "error" in line), messages[-1:]))
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = context
        params.n_threads = params.n_threads_batch = 2
        params.type_k = params.type_v = llama.GGML_TYPE_F32
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama.llama_init_from_model(self.model, params)
        self.vocab = llama.llama_model_get_vocab(self.model)

    def ids(self, text):
        data = text.encode()
        out = ffi.new("llama_token[]", len(data) + 8)
        count = llama.llama_tokenize(self.vocab, data, len(data), out, len(data) + 8, False, False)
        return list(out[0:count])

    def logits(self, window):
        """[T, vocabulary] of one window, from an empty cache."""
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        batch = llama.llama_batch_init(len(window), 0, 1)
        batch.n_tokens = len(window)
        for place, token in enumerate(window):
            batch.token[place], batch.pos[place], batch.logits[place] = int(token), place, 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        assert llama.llama_decode(self.context, batch) == 0, messages[-3:]
        width = llama.llama_vocab_n_tokens(self.vocab)
        buffer = ffi.buffer(llama.llama_get_logits(self.context), 4 * width * len(window))
        logits = np.frombuffer(buffer, dtype=np.float32).reshape(len(window), width).copy()
        llama.llama_batch_free(batch)
        return logits

    def close(self):
        llama.llama_free(self.context)
        llama.llama_model_free(self.model)


def losses(logits, windows):
    """Nats of each predicted token."""
    logits = np.asarray(logits, dtype=np.float64)[:, :-1]
    largest = logits.max(-1, keepdims=True)
    logits = logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))
    return -np.take_along_axis(logits, np.asarray(windows)[:, 1:, None], -1)[..., 0]


def export(lns, model, out):
    done = subprocess.run(
        [lns, "export", model, "--out", out, "--dtype", "f32", "-q"], capture_output=True, text=True
    )
    if done.returncode:
        raise NotWritten(done.stderr.strip().replace("\n", " "))


def tiny(lns, folder, scratch):
    """The difference of the losses, and the largest of the logits as a share of the largest logit."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(2)
    path = scratch / f"{folder.name}.gguf"
    export(lns, folder, path)
    config = AutoConfig.from_pretrained(folder)
    if config.model_type == "gpt_oss" and "truncate" in config.rope_parameters:
        # llama.cpp rounds the ends of YaRN's range, in every gpt-oss file; the original does not.
        config.rope_parameters["truncate"] = True
    reference = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    config = reference.config.get_text_config()
    window = min(WINDOW, config.max_position_embeddings)
    windows = np.random.default_rng(1).integers(0, config.vocab_size, (WINDOWS, window))
    with torch.no_grad():
        expected = reference(torch.tensor(windows)).logits.float().numpy()
    model = Model(path, config.max_position_embeddings)
    logits = np.stack([model.logits(row) for row in windows])
    model.close()
    path.unlink()
    ours, theirs = losses(logits, windows).mean(), losses(expected, windows).mean()
    print(
        f"{folder.name:26} transformers {theirs:.6f}  llama.cpp {ours:.6f} {ours - theirs:+.1e}"
        f"  logits {np.abs(logits - expected).max() / np.abs(expected).max():.1e}"
    )
    return abs(ours - theirs)


def made(folder, differences, out):
    """A random model with a folder's settings but for some."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    settings = {**config.to_dict(), **differences, "dtype": "float32"}
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(type(config)(**settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(out)
    return out


def real(lns, source, text, tokens, scratch):
    """The difference of the losses of a text's first tokens, each program with ids of its own."""
    path = scratch / "model.gguf"
    export(lns, source, path)
    told = subprocess.run(
        [lns, "eval", source, "--text", text, "--window", "512", "--max-tokens", str(tokens), "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    told = json.loads(told.stdout)["nll"]
    model = Model(path, 512)
    ids = model.ids(text.read_text(encoding="utf-8"))
    windows = np.array(ids[: tokens // 512 * 512]).reshape(-1, 512)
    # One at a time: a window's logits over Gemma's vocabulary fill a gigabyte.
    loss = np.mean([losses(model.logits(row)[None], row[None]) for row in windows])
    model.close()
    print(f"{source}  lns {told:.6f}  llama.cpp {loss:.6f} {loss - told:+.1e}")
    return abs(loss - told)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--lns", default="target/release/lns")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    args = parser.parse_args()
    folders = sorted(Path(__file__).with_name("tiny").glob("[!s]*/config.json"))
    folders += sorted(Path(__file__).with_name("tiny").glob("smol*/config.json"))
    # Of FP8 blocks that are not whole transformers makes other numbers on a CPU (`quantised.py`).
    folders = [config.parent for config in folders if config.parent.name != "deepseek_v3-fp8"]
    folders = args.models or folders
    llama.llama_log_set(keep, ffi.NULL)
    llama.llama_backend_init()
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        models = list(folders)
        for folder in folders if not args.text else []:
            for nth, differences in enumerate(SAID.get(folder.name, [])):
                models.append(made(folder, differences, scratch / f"{folder.name}, said {nth + 1}"))
        for model in models:
            try:
                if args.text:
                    difference = real(args.lns, model, args.text, args.tokens, scratch)
                else:
                    difference = tiny(args.lns, model, scratch)
            except NotWritten as refusal:
                print(f"{model.name:26} not written: {refusal}")
                continue
            except NotRead as refusal:
                print(f"{model.name:26} NOT READ: {refusal}")
                difference = np.inf
            if not difference < CLOSE:
                failed.append(model.name)
    if failed:
        sys.exit(f"llama.cpp computes otherwise: {', '.join(failed)}")


if __name__ == "__main__":
    main()
