"""A mixture of Qwen 3's shape with random weights, to measure memory and speed at its size.

    python golden/make_mixture.py OUT_DIR [--layers 16] [--experts 36] [--inner 512] [--hidden 1024]

About 1.0 billion parameters as it stands, 0.30 billion of them for each token (8 experts of 36, two matrices of
the vocabulary): transformers' own initialisation from a fixed seed, saved by transformers as bf16 in one file, with a
byte-level `tokenizer.json` (one token per byte), so that text can be fed. Both sides of a comparison read it.
"""

import argparse
from pathlib import Path

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from make_7b import write_tokenizer


def main():
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--experts", type=int, default=36)
    parser.add_argument("--inner", type=int, default=512, help="features inside an expert")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=32000)
    args = parser.parse_args()
    config = Qwen3MoeConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=64,
        num_experts=args.experts,
        num_experts_per_tok=min(8, args.experts),
        moe_intermediate_size=args.inner,
        intermediate_size=4 * args.hidden,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen3MoeForCausalLM(config)
    model.save_pretrained(args.out)
    write_tokenizer(args.out / "tokenizer.json")
    print(f"{args.out}: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
