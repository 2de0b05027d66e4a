"""The functions call the program and give typed results, or its own words where it fails."""

import sys

import layernorm_scaling as lns
import pytest

from conftest import config_of

FEW = {"max_tokens": 512, "window": 64, "threads": 2, "progress": False}


def test_a_run_tells_how_it_ended_and_its_steps_are_a_table(trained):
    assert (trained.outcome, trained.steps) == ("finished", 4)
    assert trained.model.is_dir()
    steps = trained.to_pandas()
    assert list(steps["step"]) == [1, 2, 3, 4]
    assert (steps["loss"] > 0).all()


def test_a_model_is_inspected_with_its_tensors(trained):
    found = lns.inspect(trained.model, progress=False)
    assert found.norm_scheme == {"name": "pre"}
    assert found.config["num_hidden_layers"] == 4
    assert sum(found.parameters.values()) == found.parameters_total
    assert len(found.to_pandas()) == len(found.tensors) > 4
    assert "<table>" in found._repr_html_()


def test_a_diagnosis_has_layers_a_verdict_tables_and_a_page(trained, text):
    found = lns.diagnose(trained.model, text=text, **FEW)
    assert [layer.layer for layer in found.layers] == [0, 1, 2, 3]
    assert len(found.stream) == 5
    assert found.layers[2].removal.delta_nll == found.record["layers"][2]["removal"]["delta_nll"]
    assert "layer" in found.verdict.text
    assert found.baseline.nll > 0
    table = found.to_pandas()
    assert list(table["removal.delta_nll"]) == [layer.removal.delta_nll for layer in found.layers]
    assert found.to_pandas("angular_distance").shape == (4, 4)
    assert found._repr_html_().startswith("<iframe")
    assert "&lt;!DOCTYPE html&gt;" in found._repr_html_()
    with pytest.raises(KeyError, match="no table 'lens'"):
        found.to_pandas("lens")


def test_a_diagnosis_keeps_its_folder_where_one_is_named_and_has_the_other_model(trained, text, tmp_path):
    out = tmp_path / "diagnosis"
    found = lns.diagnose(trained.model, text=text, probes=["stream"], against=trained.model, out=out, **FEW)
    assert (out / "diagnose.json").is_file()
    assert found.against.record["stream"] == found.record["stream"]
    assert found.layers[0].removal is None


def test_models_are_compared_on_the_same_tokens(trained, text):
    found = lns.eval(trained.model, against=[trained.model], text=text, **FEW)
    assert found.against[0].difference["nll"] == 0
    assert found.tokens == found.against[0].tokens == 8 * 63
    assert list(found.to_pandas()["nll"]) == [found.nll, found.nll]


def test_tasks_are_asked(trained, tmp_path):
    questions = tmp_path / "cats.jsonl"
    questions.write_text('{"context": "the", "choices": [" cat", " dog"], "gold": 0}\n' * 3, encoding="utf-8")
    found = lns.eval(trained.model, tasks=[str(questions)], progress=False)
    assert found.nll is None
    assert found.tasks[0]["documents"] == 3
    assert found.tasks[0]["acc"] in (0.0, 1.0)
    assert list(found.to_pandas()["task"]) == ["cats"]


def test_a_retrofitted_and_folded_model_computes_what_it_did(trained, text, tmp_path):
    scaled = lns.retrofit(trained.model, tmp_path / "scaled", text=text, verify=True, max_tokens=512, progress=False)
    assert scaled.verb == "retrofit"
    assert abs(scaled.measured["nll_after"] - scaled.measured["nll_before"]) < 1e-6
    assert config_of(scaled.folder)["norm_scheme"]["name"] == "lns"
    plain = lns.fold(scaled.folder, tmp_path / "plain", progress=False)
    assert config_of(plain.folder)["model_type"] == "llama"
    before, after = (lns.eval(model, text=text, **FEW).nll for model in (trained.model, plain.folder))
    assert abs(before - after) < 1e-6


def test_a_dry_run_writes_nothing_and_tells_every_factor(trained, tmp_path):
    plan = lns.retrofit(trained.model, tmp_path / "scaled", dry_run=True, progress=False)
    factors = {tensor.name: tensor.factor for tensor in plan.tensors}
    assert factors["model.layers.3.input_layernorm.weight"] == 2.0
    assert not (tmp_path / "scaled").exists()
    assert lns.retrofit(trained.model, dry_run=True, progress=False).tensors == plan.tensors


def test_layers_are_pruned_by_name_and_by_choice(trained, text, tmp_path):
    named = lns.prune(trained.model, tmp_path / "named", layers=[1, 2], progress=False)
    assert config_of(named.folder)["num_hidden_layers"] == 2
    chosen = lns.prune(trained.model, tmp_path / "chosen", drop=1, text=text, max_tokens=512, progress=False)
    assert config_of(chosen.folder)["num_hidden_layers"] == 3
    assert "nll_after" in chosen.measured


def test_a_study_is_compared_and_has_a_page(tmp_path):
    groups = ["pre", "lns"]
    found = lns.study("smoke", tmp_path / "study", groups=groups, seeds=[1], steps=2, threads=2, progress=False)
    assert sorted(found.to_pandas()["group"]) == ["lns", "pre"]
    assert [pair["name"] for pair in found.pairs] == ["lns"]
    assert set(found.to_pandas("curves").columns) >= {"group", "seed", "step", "loss"}
    assert found._repr_html_().startswith("<iframe")


def test_errors_are_the_programs_own_words(tmp_path):
    with pytest.raises(lns.InputError, match="does not exist; a model is a folder with config.json") as caught:
        lns.inspect(tmp_path / "nothing", progress=False)
    assert caught.value.exit_code == 2
    assert not str(caught.value).startswith("error")


def test_a_conversion_without_a_place_is_refused_before_anything_runs(trained):
    with pytest.raises(TypeError, match="needs out="):
        lns.fold(trained.model)


def test_what_is_no_model_is_refused(trained):
    with pytest.raises(TypeError, match="not a int"):
        lns.inspect(3)


def test_notes_are_passed_on_line_by_line(trained, text, capsys):
    lines = []
    lns.eval(trained.model, text=text, max_tokens=512, progress=lines.append)
    assert any(line.startswith("Loaded ") for line in lines)
    assert capsys.readouterr().err == ""
    lns.eval(trained.model, text=text, max_tokens=512)
    assert "Loaded " in capsys.readouterr().err


def test_tables_say_what_they_need_where_there_is_no_pandas(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"layernorm-scaling\[pandas\]"):
        trained.to_pandas()


def test_a_loaded_model_is_the_same_model(trained, text):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(trained.model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained.model)
    loaded = lns.eval(model, text=text, tokenizer=tokenizer, **FEW)
    assert loaded.nll == lns.eval(trained.model, text=text, **FEW).nll
    assert lns.inspect(model, progress=False).parameters_total == sum(p.numel() for p in model.parameters())
