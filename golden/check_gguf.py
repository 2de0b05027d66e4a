"""Holds a GGUF file that `lns export` wrote against transformers and the gguf package.

    python golden/check_gguf.py MODEL.gguf TEXT [--model MODEL] [--config] [--windows 4]

Prints what the gguf package reads in the file, and the loss of the text's first windows of 512 tokens (or
of the model's context, if that is shorter) in transformers (`gguf_file=`). With the model that the file was
made from, a folder or another GGUF file, also whether text becomes the same ids and how far the logits and
the loss are from the model's own; of a file of F32 they must be the same.

What transformers does not read in a GGUF file is no fault of the file: rotary scalings, biases of a Llama,
the head size of a Qwen (`--config` takes the model's own config.json instead, to see the weights right), and
the way some vocabularies split digits (`smollm`).
"""

import argparse
from collections import Counter
from pathlib import Path

import torch
from gguf import GGUFReader
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("gguf", type=Path)
parser.add_argument("text", type=Path)
parser.add_argument("--model", type=Path)
parser.add_argument("--config", action="store_true")
parser.add_argument("--windows", type=int, default=4)
args = parser.parse_args()
torch.set_num_threads(1)


def load(path, config=None):
    place = {"gguf_file": path.name} if path.is_file() else {}
    folder = path.parent if path.is_file() else path
    config = {"config": config} if config else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **place, **config).eval()
    inside = path.is_file() and "tokenizer.ggml.tokens" in GGUFReader(path).fields
    has_tokenizer = inside or (path / "tokenizer.json").is_file()
    return model, AutoTokenizer.from_pretrained(folder, **place) if has_tokenizer else None


def evaluate(model, windows):
    with torch.no_grad():
        logits = model(windows).logits.double()
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten())
    return logits, loss.item()


reader = GGUFReader(args.gguf)
for key, field in reader.fields.items():
    value = field.contents() if len(field.data) == 1 else f"{len(field.data)} values"
    print(f"{key} = {str(value)[:100]!r}")
types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
print(f"{len(reader.tensors)} tensors: {dict(types)}")

model, tokenizer = load(args.gguf, AutoConfig.from_pretrained(args.model) if args.config else None)
reference, original = load(args.model) if args.model else (None, None)
text = args.text.read_text(encoding="utf-8")
encode = lambda tokenizer: tokenizer(text, add_special_tokens=False)["input_ids"]
if tokenizer and original:
    ours, theirs = encode(tokenizer), encode(original)
    first = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), None)
    same = ours == theirs
    print(f"ids: {len(ours)}, {'the same' if same else f'not the same from token {first} on'}")
    begins = tokenizer("a")["input_ids"] == original("a")["input_ids"]
    print(f"ids with special tokens: {'the same' if begins else 'not the same'}")
    print(f"chat templates: {'the same' if tokenizer.chat_template == original.chat_template else 'not the same'}")
if original or tokenizer:
    ids = torch.tensor(encode(original or tokenizer))
else:
    ids = torch.randint(model.config.vocab_size, (2048,), generator=torch.Generator().manual_seed(0))
length = min(512, model.config.max_position_embeddings)
windows = ids[: len(ids) // length * length].view(-1, length)[: args.windows]
logits, loss = evaluate(model, windows)
print(f"loss {loss:.6f} in {len(windows)} windows of {length} tokens")
if reference:
    expected, expected_loss = evaluate(reference, windows)
    far = ((logits - expected).abs().max() / expected.abs().max()).item()
    print(f"the model's own loss {expected_loss:.6f}, difference {loss - expected_loss:+.1e}; logits within {far:.1e}")
    if set(types) == {"F32"}:
        assert far < 1e-5, "a file of F32 must be the model"
