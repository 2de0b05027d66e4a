"""What lm-evaluation-harness asks for documents written for it, and what it makes of a tiny model's answers.

    pip install lm_eval pyarrow
    python golden/tasks.py

writes crates/tasks/tests/golden/tasks.json (rows as the hub has them, contexts and continuations, log-likelihoods
of golden/tiny/llama read character by character, accuracies), crates/tasks/tests/golden/tokenizer.json (its
96 characters), and crates/corpus/tests/data/rows*.arrow.
"""

import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval
import pyarrow as pa
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

GOLDEN = Path("crates/tasks/tests/golden")
ARROW = Path("crates/corpus/tests/data")
TASKS = Path(lm_eval.__file__).parent / "tasks"


def choices(*texts):
    return {"text": list(texts), "label": ["A", "B", "C", "D", "E"][: len(texts)]}


def subject(question, answer, *options):
    return {"question": question, "subject": "anatomy", "choices": list(options), "answer": answer}


# Configuration, rows of the split, rows to show as examples, how many of them.
DOCUMENTS = {
    "arc_easy": ("arc/arc_easy.yaml", [
        {"question": "Which is hot?", "choices": choices("ice", "a fire", "snow"), "answerKey": "B"},
        {"question": "What do cows eat?", "choices": choices("grass", "iron"), "answerKey": "A"},
        {"question": "What is wet?", "choices": {"text": ["sand", "sea"], "label": ["1", "2"]}, "answerKey": "2"},
    ], [{"question": "Who flies?", "choices": choices("ants", "owls"), "answerKey": "B"}], 1),
    "arc_challenge": ("arc/arc_challenge.yaml", [
        {"question": "Why is it dark at night?", "choices": choices("The Earth turns.", "It rains."), "answerKey": "A"},
        {"question": "What melts?", "choices": choices("stone", "air", "ice"), "answerKey": "C"},
    ], [], 0),
    "blimp": ("blimp/adjunct_island.yaml", [
        {"sentence_good": "The dogs bark.", "sentence_bad": "The dogs barks.", "UID": "adjunct_island"},
        {"sentence_good": "Ann sees herself.", "sentence_bad": "Ann sees himself.", "UID": "adjunct_island"},
    ], [], 0),
    "boolq": ("super_glue/boolq/default.yaml", [
        {"passage": "Owls hunt at night.", "question": "do owls hunt", "label": 1},
        {"passage": "Cows eat grass; they never eat meat, and they sleep at night.",
         "question": "do cows eat meat", "label": 0},
    ], [{"passage": "Ice is cold.", "question": "is ice cold", "label": 1}], 1),
    "commonsense_qa": ("commonsense_qa/default.yaml", [
        {"question": " Where is milk? ", "choices": choices("a", "b", "c", "d", "e"), "answerKey": "D"},
    ], [], 0),
    "hellaswag": ("hellaswag/hellaswag.yaml", [
        {"activity_label": "Cooking", "ctx_a": "A man holds an egg.", "ctx_b": "he",
         "endings": ["boils it.", "rides  it [title] away."], "label": "0"},
        {"activity_label": "Mowing", "ctx_a": "[header] How to mow [title] Begin. [step] Go.", "ctx_b": "",
         "endings": ["Stop [sub] now.", "Then Walk."], "label": "1"},
    ], [], 0),
    "lambada": ("lambada/lambada_openai.yaml", [
        {"text": "He lost his hat, so he bought a new hat"},
        {"text": "She sang, and all who heard her sing said that she could sing"},
    ], [], 0),
    "mmlu": ("mmlu/default/mmlu_anatomy.yaml", [
        subject("How many eyes has a cat?\n", 1, "one", "two", "three", "four"),
        subject("What beats?", 3, "hair", "nails", "teeth", "the heart"),
    ], [subject("What sees?", 0, "eyes", "ears", "arms", "feet"),
        subject("What hears?", 1, "eyes", "ears", "arms", "feet"),
        subject("What walks?", 3, "eyes", "ears", "arms", "feet")], 2),
    "openbookqa": ("openbookqa/openbookqa.yaml", [
        {"question_stem": "A plant grows towards", "choices": choices("light", "noise"), "answerKey": "A"},
        {"question_stem": "Rain comes from ", "choices": choices("stones", "clouds"), "answerKey": " B"},
    ], [], 0),
    "piqa": ("piqa/piqa.yaml", [
        {"goal": "Open a jar", "sol1": "Turn the lid.", "sol2": "Turn the table.", "label": 0},
        {"goal": "Dry wet hair", "sol1": "Use a sponge.", "sol2": "Use a towel ", "label": 1},
        {"goal": "Cut bread", "sol1": "with a knife", "sol2": "with a long and very wide spoon", "label": 0},
    ], [{"goal": "Boil an egg", "sol1": "In air.", "sol2": "In water.", "label": 1},
        {"goal": "Light a room", "sol1": "Use a lamp.", "sol2": "Use a cat.", "label": 0}], 2),
    "sciq": ("sciq/sciq.yaml", [
        {"support": "  Water boils at 100 C.", "question": "When does water boil?", "distractor1": "0 C",
         "distractor2": "50 C", "distractor3": "10 C", "correct_answer": "100 C"},
        {"support": "", "question": "What falls?", "distractor1": "a star", "distractor2": "smoke",
         "distractor3": "light", "correct_answer": "a stone"},
    ], [], 0),
    "siqa": ("siqa/siqa.yaml", [
        {"context": "Ann won.", "question": "How is she?", "answerA": "sad", "answerB": "glad",
         "answerC": "cold", "label": "2"},
    ], [], 0),
    "winogrande": ("winogrande/default.yaml", [
        {"sentence": "Ann paid Eve as _ had sold the hat.", "option1": "Ann", "option2": "Eve", "answer": "2"},
        {"sentence": "The cup fell off the box because _ was small .", "option1": "the cup", "option2": "the box",
         "answer": "2"},
    ], [{"sentence": "Bob hid from Tom as _ was mad.", "option1": "Bob", "option2": "Tom", "answer": "2"}], 1),
}


def tokenizer():
    """One token for each character from the space on, and for the end of a line."""
    characters = ["\n"] + [chr(code) for code in range(32, 127)]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False},
        "post_processor": None, "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": {c: i for i, c in enumerate(characters)}, "unk_token": "?"},
    }


def task(configuration, rows, shown, shots, folder):
    config = dict(load_yaml(str(TASKS / configuration)))
    for key in ("tag", "task_alias", "metadata"):
        config.pop(key, None)
    asked = config.get("test_split") or config["validation_split"]
    examples = config.get("fewshot_split") or config.get("training_split") or asked
    files = {split: rows for split in (config.get("validation_split"), config.get("test_split")) if split}
    files.update({examples: shown or rows, asked: rows})
    for split, of in files.items():
        Path(folder, f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of))
    config["dataset_path"], config["dataset_name"] = "json", None
    config["dataset_kwargs"] = {"data_files": {split: f"{folder}/{split}.jsonl" for split in files}}
    if shots:
        # Its own choice is a random sample; the first are what `lns eval --shots` shows.
        config["num_fewshot"] = shots
        config["fewshot_config"] = {"sampler": "first_n"}
    return ConfigurableTask(config=config)


def expected(lm, name, configuration, rows, shown, shots):
    with tempfile.TemporaryDirectory() as folder:
        asked = task(configuration, rows, shown, shots, folder)
        asked.build_all_requests(rank=0, world_size=1)
        instances = asked.instances
        scores = lm.loglikelihood(instances, disable_tqdm=True)
        documents = list(asked.eval_docs)
        results = []
        for index, document in enumerate(documents):
            own = [i for i, instance in enumerate(instances) if instance.doc_id == index]
            given = [scores[i] for i in own]
            found = asked.process_results(document, given if len(given) > 1 else given[0:1])
            results.append({
                "choices": [
                    {"context": instances[i].args[0], "continuation": instances[i].args[1],
                     "log_probability": scores[i][0], "greedy": bool(scores[i][1])} for i in own
                ],
                "acc": found["acc"],
                **({"acc_norm": found["acc_norm"]} if "acc_norm" in found else {}),
            })
    return {"rows": rows, "examples": shown, "shots": shots, "documents": results}


def arrow():
    table = pa.table({
        "question": ["one?", "zwei ü", None],
        "choices": [{"text": ["a", "b"], "label": ["A", "B"]}, {"text": [], "label": []},
                    {"text": ["c"], "label": ["A"]}],
        "answer": pa.array([1, 0, 2], pa.int64()),
        "yes": [True, False, None],
        "score": pa.array([0.5, 1.0, 2.0], pa.float32()),
        "long": pa.array(["x", "", "y"], pa.large_utf8()),
    })
    ARROW.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_stream(str(ARROW / "rows.arrow"), table.schema) as stream:
        for batch in table.to_batches(max_chunksize=2):
            stream.write_batch(batch)
    with pa.ipc.new_file(str(ARROW / "rows_file.arrow"), table.schema) as file:
        file.write_table(table)
    # What is refused: compressed batches, and a column whose texts stand in a dictionary.
    for codec in ("lz4", "zstd"):
        options = pa.ipc.IpcWriteOptions(compression=codec)
        long = pa.table({"question": ["the same words again and again " * 20] * 4})
        with pa.ipc.new_stream(str(ARROW / f"rows_{codec}.arrow"), long.schema, options=options) as stream:
            stream.write_table(long)
    texts = pa.table({"question": pa.array(["a", "b", "a"]).dictionary_encode()})
    with pa.ipc.new_stream(str(ARROW / "rows_dictionary.arrow"), texts.schema) as stream:
        stream.write_table(texts)


def main():
    torch.set_num_threads(1)
    GOLDEN.mkdir(parents=True, exist_ok=True)
    (GOLDEN / "tokenizer.json").write_text(json.dumps(tokenizer()) + "\n")
    fast = PreTrainedTokenizerFast(tokenizer_file=str(GOLDEN / "tokenizer.json"), bos_token='"', eos_token="#")
    model = AutoModelForCausalLM.from_pretrained("golden/tiny/llama", dtype=torch.float32)
    lm = HFLM(pretrained=model, tokenizer=fast, batch_size=1)
    found = {}
    for name, (configuration, rows, shown, shots) in DOCUMENTS.items():
        found[name] = [expected(lm, name, configuration, rows, shown, 0)]
        if shots:
            found[name].append(expected(lm, name, configuration, rows, shown, shots))
    (GOLDEN / "tasks.json").write_text(json.dumps(found, indent=1) + "\n")
    arrow()


if __name__ == "__main__":
    main()
