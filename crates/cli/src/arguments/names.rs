//! Names that a registry lists: help and completions list what it has, and nothing is retyped here.

use std::ffi::OsStr;

use clap::{
    Arg, Command,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use lns_spec::NormScheme;

/// The name of a norm scheme.
#[derive(Debug, Clone)]
pub(crate) struct SchemeName;

impl TypedValueParser for SchemeName {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        let known = |name: &str| name.parse::<NormScheme>().map(|_| name.to_owned());
        known.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(NormScheme::names().into_iter().map(PossibleValue::new)))
    }
}

/// A parser of values by their names, each with what help says of it.
pub(crate) fn one_of<T, const N: usize>(
    values: [(&'static str, T, &'static str); N],
) -> impl TypedValueParser<Value = T>
where
    T: Clone + Send + Sync + 'static,
{
    let possible = values.clone().map(|(name, _, help)| PossibleValue::new(name).help(help));
    PossibleValuesParser::new(possible).try_map(move |given| {
        let found = values.iter().find(|(name, ..)| *name == given);
        found.map(|(_, value, _)| value.clone()).ok_or("this is none of the names")
    })
}

/// `a, b or c`, for a sentence of a help.
pub(crate) fn any_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.into_iter().collect();
    match names.pop() {
        Some(last) if !names.is_empty() => format!("{} or {last}", names.join(", ")),
        last => last.unwrap_or_default().to_owned(),
    }
}
