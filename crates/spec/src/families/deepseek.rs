//! What DeepSeek-V2 (arXiv 2405.04434) and V3 (arXiv 2412.19437) have in common: latent attention, MLPs in the
//! first layers, and in the others experts beside shared ones. Defaults are those of transformers'
//! `configuration_deepseek_v2.py` and `configuration_deepseek_v3.py`.

use serde_json::{Map, Value, json};

use super::{Family, Gguf, StoredName, common};
use crate::{
    AttentionScale, ExpertGroups, ExpertsSpec, LatentSpec, ModelSpec, Role, RopeScaling, Router,
    Site, SpecError, StoredLayout,
    config::keys::{Keys, invalid},
};

/// The keys of other mixtures that both read.
pub(super) const COMPUTES: &[&str] = &["n_routed_experts", "num_experts", "num_local_experts"];

/// Hugging Face's names, and those of gguf-py's `tensor_mapping.py`.
pub(super) static NAMES: [StoredName; 22] = [
    StoredName::new(&[Role::Embedding], "model.embed_tokens", "token_embd"),
    StoredName::new(&[Role::FinalNorm], "model.norm", "output_norm"),
    StoredName::new(&[Role::Head], "lm_head", "output"),
    StoredName::new(&[Role::InputNorm(Site::Attention)], "input_layernorm", "attn_norm"),
    StoredName::new(&[Role::Query], "self_attn.q_proj", "attn_q"),
    StoredName::new(&[Role::QueryLatent], "self_attn.q_a_proj", "attn_q_a"),
    StoredName::new(&[Role::QueryLatentNorm], "self_attn.q_a_layernorm", "attn_q_a_norm"),
    StoredName::new(&[Role::QueryOfLatent], "self_attn.q_b_proj", "attn_q_b"),
    StoredName::new(
        &[Role::KeyValueLatent, Role::RotaryKey],
        "self_attn.kv_a_proj_with_mqa",
        "attn_kv_a_mqa",
    ),
    StoredName::new(&[Role::KeyValueLatentNorm], "self_attn.kv_a_layernorm", "attn_kv_a_norm"),
    StoredName::new(&[Role::Key, Role::Value], "self_attn.kv_b_proj", "attn_kv_b")
        .laid_out(StoredLayout::HeadByHead),
    StoredName::new(&[Role::KeyOfLatent], "self_attn.k_b_proj", "attn_k_b"),
    StoredName::new(&[Role::ValueOfLatent], "self_attn.v_b_proj", "attn_v_b"),
    StoredName::new(&[Role::AttentionOutput], "self_attn.o_proj", "attn_output"),
    StoredName::new(&[Role::InputNorm(Site::Mlp)], "post_attention_layernorm", "ffn_norm"),
    StoredName::new(&[Role::MlpGate], "mlp.gate_proj", "ffn_gate"),
    StoredName::new(&[Role::MlpUp], "mlp.up_proj", "ffn_up"),
    StoredName::new(&[Role::MlpDown], "mlp.down_proj", "ffn_down"),
    StoredName::new(&[Role::RouterCorrection], "mlp.gate.e_score_correction_bias", "exp_probs_b"),
    StoredName::new(&[Role::SharedMlpGate], "mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
    StoredName::new(&[Role::SharedMlpUp], "mlp.shared_experts.up_proj", "ffn_up_shexp"),
    StoredName::new(&[Role::SharedMlpDown], "mlp.shared_experts.down_proj", "ffn_down_shexp"),
];

/// The keys of llama.cpp's architecture `deepseek2`.
pub(super) const GGUF: Gguf = Gguf {
    architecture: "deepseek2",
    keys: &[
        ("attention.q_lora_rank", "q_lora_rank"),
        ("attention.kv_lora_rank", "kv_lora_rank"),
        ("leading_dense_block_count", "first_k_dense_replace"),
        ("expert_count", "n_routed_experts"),
        ("expert_used_count", "num_experts_per_tok"),
        ("expert_feed_forward_length", "moe_intermediate_size"),
        ("expert_shared_count", "n_shared_experts"),
        ("expert_weights_scale", "routed_scaling_factor"),
        ("expert_weights_norm", "norm_topk_prob"),
        ("expert_group_count", "n_group"),
        ("expert_group_used_count", "topk_group"),
    ],
    ..Gguf::USUAL
};

pub(super) static EXPERT_NAMES: [StoredName; 4] = [
    StoredName::new(&[Role::Router], "mlp.gate", "ffn_gate_inp"),
    StoredName::new(&[Role::MlpGate], "mlp.experts.{expert}.gate_proj", ""),
    StoredName::new(&[Role::MlpUp], "mlp.experts.{expert}.up_proj", ""),
    StoredName::new(&[Role::MlpDown], "mlp.experts.{expert}.down_proj", ""),
];

/// What the two reference classes take for granted.
pub(super) struct Defaults {
    pub(super) max_position_embeddings: usize,
    pub(super) n_routed_experts: usize,
    pub(super) num_experts_per_tok: Option<usize>,
    pub(super) moe_intermediate_size: usize,
    pub(super) n_shared_experts: usize,
    pub(super) first_k_dense_replace: usize,
    pub(super) routed_scaling_factor: f64,
}

/// How a layer's experts are chosen, which is where the two differ.
pub(super) struct Choice {
    pub(super) router: Router,
    pub(super) groups: Option<ExpertGroups>,
}

/// Reads a model whose experts are chosen by what `choice` reads.
pub(super) fn read(
    family: Family,
    keys: &mut Keys,
    defaults: &Defaults,
    choice: impl FnOnce(&mut Keys) -> Result<Choice, SpecError>,
) -> Result<ModelSpec, SpecError> {
    only(keys, "mlp_bias", &[json!(false)], "biases of MLPs are not")?;
    only(keys, "moe_layer_freq", &[json!(1)], "every layer after the first ones has experts")?;
    let or = |size: Option<usize>, default: usize| size.unwrap_or(default);
    let absent = !keys.0.contains_key("q_lora_rank");
    let latent = LatentSpec {
        q_lora_rank: keys.size("q_lora_rank")?.or(absent.then_some(1536)),
        kv_lora_rank: or(keys.size("kv_lora_rank")?, 512),
        v_head_dim: or(keys.size("v_head_dim")?, 128),
    };
    let unturned = or(keys.size("qk_nope_head_dim")?, 128);
    let turned = or(keys.size("qk_rope_head_dim")?, 64);
    let head_dim = unturned.saturating_add(turned);
    // What transformers writes beside the sizes that these are made of.
    let turned_alone = [json!(turned), json!(head_dim)];
    only(keys, "head_dim", &turned_alone, "it is `qk_rope_head_dim`")?;
    let sum = "it is `qk_nope_head_dim` + `qk_rope_head_dim`";
    only(keys, "qk_head_dim", &turned_alone[1..], sum)?;
    let stretch = mscale_all_dim(keys)?;
    let usual = common::Defaults {
        head_dim: Some(head_dim),
        max_position_embeddings: defaults.max_position_embeddings,
        ..common::Defaults::USUAL
    };
    let mut spec = common::read(family, keys, &usual)?;
    (spec.latent, spec.rotary_dim, spec.rotary_interleaved) = (Some(latent), turned, true);
    spec.qkv_bias = keys.flag("attention_bias")?.unwrap_or(false);
    spec.attention_output_bias = spec.qkv_bias;
    if let Some(mscale_all_dim) = stretch
        && spec.rope.scaling != RopeScaling::Default
    {
        spec.attention_scale = AttentionScale::Stretched { mscale_all_dim };
    }
    let experts = experts(keys, defaults, choice)?;
    let first = whole(keys, "first_k_dense_replace")?.unwrap_or(defaults.first_k_dense_replace);
    for layer in spec.per_layer.iter_mut().skip(first) {
        layer.experts = experts;
    }
    if spec.is_mixture() && experts.is_some_and(|experts| experts.per_token == 0) {
        return Err(SpecError::Missing { key: "num_experts_per_tok".to_owned() });
    }
    Ok(spec)
}

/// The experts of a layer that has some; `None` where no layer does.
fn experts(
    keys: &mut Keys,
    defaults: &Defaults,
    choice: impl FnOnce(&mut Keys) -> Result<Choice, SpecError>,
) -> Result<Option<ExpertsSpec>, SpecError> {
    // DeepSeek's own code has no experts where their number is null.
    let is_null = |keys: &Keys, key: &str| keys.0.get(key).is_some_and(Value::is_null);
    let (none, unshared) = (is_null(keys, "n_routed_experts"), is_null(keys, "n_shared_experts"));
    let count = common::expert_count(keys)?;
    let inner = keys.size("moe_intermediate_size")?.unwrap_or(defaults.moe_intermediate_size);
    let shared = match whole(keys, "n_shared_experts")? {
        _ if unshared => 0,
        shared => shared.unwrap_or(defaults.n_shared_experts),
    };
    let per_token = keys.size("num_experts_per_tok")?.or(defaults.num_experts_per_tok);
    let scale = keys.number("routed_scaling_factor")?.unwrap_or(defaults.routed_scaling_factor);
    let Choice { router, groups } = choice(keys)?;
    let shared_intermediate_size = (shared > 0).then(|| shared.saturating_mul(inner));
    let experts = ExpertsSpec {
        count: count.unwrap_or(defaults.n_routed_experts),
        per_token: per_token.unwrap_or(0),
        intermediate_size: inner,
        router,
        groups,
        scale,
        shared_intermediate_size,
    };
    Ok((!none || count.is_some()).then_some(experts))
}

/// The groups that `n_group` and `topk_group` name.
pub(super) fn groups(
    keys: &mut Keys,
    [count, per_token]: [usize; 2],
) -> Result<ExpertGroups, SpecError> {
    Ok(ExpertGroups {
        count: keys.size("n_group")?.unwrap_or(count),
        per_token: keys.size("topk_group")?.unwrap_or(per_token),
    })
}

/// Puts what [`read`] takes; the families put how experts are chosen.
pub(super) fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    config.remove("head_dim");
    if let AttentionScale::Stretched { mscale_all_dim } = spec.attention_scale
        && let Some(Value::Object(scaling)) = config.get_mut("rope_scaling")
    {
        scaling.insert("mscale_all_dim".to_owned(), json!(mscale_all_dim));
    }
    let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
    // Its heads share no keys.
    put("num_key_value_heads", json!(spec.num_attention_heads));
    put("attention_bias", json!(spec.qkv_bias));
    if let Some(latent) = spec.latent {
        put("q_lora_rank", json!(latent.q_lora_rank));
        put("kv_lora_rank", json!(latent.kv_lora_rank));
        put("v_head_dim", json!(latent.v_head_dim));
        put("qk_nope_head_dim", json!(spec.unturned_dim()));
        put("qk_rope_head_dim", json!(spec.rotary_dim));
    }
    let dense = spec.per_layer.iter().take_while(|layer| layer.experts.is_none()).count();
    put("first_k_dense_replace", json!(dense));
    let Some(experts) = spec.per_layer.get(dense).and_then(|layer| layer.experts) else { return };
    let shared = experts.shared_intermediate_size.unwrap_or(0);
    put("n_routed_experts", json!(experts.count));
    put("num_experts_per_tok", json!(experts.per_token));
    put("moe_intermediate_size", json!(experts.intermediate_size));
    put("n_shared_experts", json!(shared / experts.intermediate_size.max(1)));
    put("routed_scaling_factor", json!(experts.scale));
}

/// The m of YaRN's stretch of the scores, which stands among the rotary keys; 0 is none.
fn mscale_all_dim(keys: &Keys) -> Result<Option<f64>, SpecError> {
    let given = |key: &str| keys.0.get(key).filter(|value| !value.is_null());
    let rotary = given("rope_parameters").or_else(|| given("rope_scaling"));
    match rotary.and_then(|rotary| rotary.get("mscale_all_dim")) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(mscale) => Ok(Some(mscale).filter(|mscale| *mscale != 0.0)),
            None => Err(invalid("rope_scaling.mscale_all_dim", value, "a number")),
        },
    }
}

fn whole(keys: &mut Keys, key: &str) -> Result<Option<usize>, SpecError> {
    keys.typed(key, "a whole number", |value| {
        value.as_u64().and_then(|number| usize::try_from(number).ok())
    })
}

/// Refuses a key that has another value than those at which it asks for nothing.
pub(super) fn only(
    keys: &mut Keys,
    key: &str,
    usual: &[Value],
    why: &str,
) -> Result<(), SpecError> {
    match keys.take(key) {
        Some(value) if !usual.contains(&value) => Err(SpecError::Unsupported {
            key: key.to_owned(),
            value: crate::config::keys::shown(&value),
            why: why.to_owned(),
        }),
        _ => Ok(()),
    }
}
