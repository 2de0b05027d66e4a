//! A precision by its name.

use lns_kernels::Precision;
use serde::{Deserialize, Deserializer, Serializer};

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(super) fn serialize<S: Serializer>(value: &Precision, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(value.name())
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Precision, D::Error> {
    let given = String::deserialize(from)?;
    let known = Precision::ALL.into_iter().find(|precision| precision.name() == given);
    known.ok_or_else(|| {
        serde::de::Error::custom(format!("{given:?} is not a precision; use f32 or bf16"))
    })
}
