"""Tiny random encoders, as transformers has them.

    python golden/encoders.py [--out golden/tiny]

The folders are those of `tiny_models.py`: `bert` (f32, three layers), `bert-bf16-sharded` (two layers,
shards of 20 kB) and `bert-small` (16 features, other settings) with the head that predicts masked tokens,
`bert-headless` without it and with the names that such files have, and `bert-older`, which has the weights of
`bert-bf16-sharded` as the first files had them: gains and biases of norms in TensorFlow's words, the positions
as a tensor, and the heads of pre-training. `expected.safetensors` holds

    input_ids       [2, T]         token ids, stored as f32
    stream.0 .. L   [2, T, hidden] what leaves the norm on the embedding, and each layer
    logits          [2, T, V]      with a head
    targets         [2, T]         with a head: the token to predict, -1 where there is none
    nll             [targets]      -log p of each
    gradient.NAME                  in `bert-small`: of the mean of these, of every parameter

and `diagnose_expected.json`, in `bert` and `bert-headless`, the numbers of `diagnose.json` in f64 on 3 windows of
16 tokens, `ids`, of which those that `targets` names stand for others.

The weights are read back from the folder, and everything is computed in f32 with eager attention.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
import transformers as hf
import probes
from safetensors.torch import load_file, save_file
from tiny_models import FAMILY, LENGTH, fill

SHAPE = {key: value for key, value in FAMILY.items() if key != "num_key_value_heads"}
SMALL = {
    **SHAPE,
    **dict(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2),
    **dict(hidden_act="gelu_new", type_vocab_size=3, layer_norm_eps=1e-6),
}


def write(out, name, kind, config, seed, dtype=torch.float32, shard="1GB"):
    """Writes one checkpoint."""
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    model = kind(config)
    fill(model, seed)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    finish(folder, kind, seed)


def finish(folder, kind, seed):
    """Writes what is expected of a checkpoint."""
    (folder / "generation_config.json").unlink(missing_ok=True)
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    # PyTorch gives the row of the padding token no gradient.
    model.get_input_embeddings().padding_idx = None
    generator = torch.Generator().manual_seed(seed + 1000)
    ids = torch.randint(model.config.vocab_size, (2, LENGTH), generator=generator)
    found = model(ids, output_hidden_states=True)
    expected = {f"stream.{i}": stream for i, stream in enumerate(found.hidden_states)}
    if kind is hf.BertForMaskedLM:
        targets = torch.randint(model.config.vocab_size, ids.shape, generator=generator)
        targets[torch.rand(ids.shape, generator=generator) > 0.15] = -1
        nll = torch.nn.functional.cross_entropy(
            found.logits.transpose(1, 2), targets, reduction="none", ignore_index=-1
        )[targets >= 0]
        expected |= {"logits": found.logits, "targets": targets.float(), "nll": nll}
        if folder.name == "bert-small":
            nll.mean().backward()
            named = model.named_parameters()
            expected |= {f"gradient.{name}": parameter.grad for name, parameter in named}
    expected = {name: value.detach().contiguous() for name, value in expected.items()}
    save_file({"input_ids": ids.float(), **expected}, folder / "expected.safetensors")
    for path in folder.iterdir():
        path.chmod(0o644)


def write_older(out):
    """As the first BERTs are published: everything of pre-training in one file."""
    newer, folder = out / "bert-bf16-sharded", out / "bert-older"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tensors = {}
    for shard in newer.glob("model-*.safetensors"):
        tensors |= load_file(shard)
    renamed = {}
    for name, tensor in tensors.items():
        for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
            name = name.replace(new, old)
        renamed[name] = tensor
    hidden = len(tensors["bert.embeddings.LayerNorm.weight"])
    renamed["bert.embeddings.position_ids"] = torch.arange(8)[None]
    renamed["bert.pooler.dense.weight"] = torch.zeros(hidden, hidden)
    renamed["bert.pooler.dense.bias"] = torch.zeros(hidden)
    renamed["cls.seq_relationship.weight"] = torch.zeros(2, hidden)
    renamed["cls.seq_relationship.bias"] = torch.zeros(2)
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((newer / "config.json").read_text())
    config["architectures"] = ["BertForPreTraining"]
    config |= {"position_embedding_type": "absolute", "gradient_checkpointing": False}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    # The weights are the newer folder's, so what is expected is, too.
    shutil.copy(newer / "expected.safetensors", folder / "expected.safetensors")
    for path in folder.iterdir():
        path.chmod(0o644)


def without(model, layers, x, at, removed):
    """The last stream with the sites `removed` of layer `at` left out, their norms with them."""
    for index, layer in enumerate(layers):
        gone = removed if index == at else ()
        if "attention" not in gone:
            x = layer.attention(x)[0]
        if "mlp" not in gone:
            x = layer.output(layer.intermediate(x), x)
    return x


def diagnose(folder, seed):
    """Writes what a diagnosis finds."""
    has_head = folder.name == "bert"
    kind = hf.BertForMaskedLM if has_head else hf.BertModel
    model = kind.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    bert = model.bert if has_head else model
    layers = bert.encoder.layer
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, model.config.vocab_size, (3, 16), generator=generator)
    targets = torch.full_like(ids, -1)
    for row, places in enumerate(((3, 7), (1, 14), (2, 9))):
        targets[row, list(places)] = ids[row, list(places)]
        ids[row, list(places)] = 2
    separators = [ids[0, 5].item()]
    content = probes.content_mask(ids, separators)
    streams = list(model(ids, output_hidden_states=True).hidden_states)
    for stream in streams:
        stream.retain_grad()
    nll = lambda x: torch.nn.functional.cross_entropy(
        model.cls(x).transpose(1, 2), targets, reduction="none", ignore_index=-1
    )[targets >= 0].reshape(3, 2)
    baseline = nll(streams[-1]) if has_head else None
    if has_head:
        baseline.mean().backward()
    records = []
    sites = {"": ("attention", "mlp"), "_attention": ("attention",), "_mlp": ("mlp",)}
    for index, layer in enumerate(layers):
        before, after = streams[index].detach(), streams[index + 1].detach()
        middle = layer.attention(before)[0]
        branches = (
            layer.attention.output.dense(layer.attention.self(before)[0]),
            layer.output.dense(layer.intermediate(middle)),
        )
        record = probes.layer_record(index, before, after, *(x.detach() for x in branches), content)
        for suffix, removed in sites.items():
            left = without(model, layers, streams[0].detach(), index, removed).detach()
            change = probes.representation_record(streams[-1].detach(), left, content)
            record[f"representation{suffix}"] = change
            if has_head:
                record[f"removal{suffix}"] = probes.removal_record(
                    nll(left).detach(), baseline.detach()
                )
        if has_head:
            own = torch.cat([parameter.grad.flatten() for parameter in layer.parameters()])
            record["gradient_norm"] = own.norm().item()
            record["stream_gradient_norm"] = streams[index].grad.norm().item()
        records.append(record)
    detached = [stream.detach() for stream in streams]
    angular = probes.angular_distance(detached, content)
    found = {
        "text": {"tokens": ids.numel(), "windows": 3, "window_len": 16},
        "stream": [probes.stream_record(i, x, content) for i, x in enumerate(detached)],
        "layers": records,
        "angular_distance": angular,
        "blocks": probes.blocks(angular),
        "ids": ids.tolist(),
        "targets": targets.tolist(),
        "separators": separators,
    }
    if has_head:
        final = model.cls(detached[-1]).detach()
        found["baseline"] = probes.baseline_record(baseline.detach())
        found["lens"] = [
            probes.lens_record(i, model.cls(x).detach(), final) for i, x in enumerate(detached)
        ]
    text = json.dumps(probes.rounded(found, 9), indent=1)
    (folder / "diagnose_expected.json").write_text(text + "\n")


def main():
    """Writes every folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    head, bare = hf.BertForMaskedLM, hf.BertModel
    write(out, "bert", head, hf.BertConfig(**SHAPE, num_hidden_layers=3), 130)
    shards = dict(dtype=torch.bfloat16, shard="20KB")
    write(out, "bert-bf16-sharded", head, hf.BertConfig(**SHAPE, num_hidden_layers=2), 131, **shards)
    write(out, "bert-small", head, hf.BertConfig(**SMALL), 132)
    write(out, "bert-headless", bare, hf.BertConfig(**SHAPE, num_hidden_layers=2, hidden_act="silu"), 133)
    write_older(out)
    diagnose(out / "bert", 135)
    diagnose(out / "bert-headless", 136)


if __name__ == "__main__":
    main()
