//! Numbers on the command line: each has a range, which its help says and which is checked where it is
//! typed. Ranges of settings are those of a run's file (`lns_train::ranges`).

use std::{any::TypeId, ops::RangeInclusive};

use clap::Arg;

/// Tokens of a text or of a model's context.
pub(crate) const WINDOW: RangeInclusive<u64> = 2..=1 << 20;
/// Tokens to generate.
pub(crate) const NEW_TOKENS: RangeInclusive<u64> = 1..=1 << 20;
/// Rows of a tokenizer that is trained: 256 bytes and the end of text at least.
pub(crate) const VOCABULARY: RangeInclusive<u64> = 257..=1 << 20;
/// Ranks of adapters.
pub(crate) const RANK: RangeInclusive<u64> = 1..=1 << 12;
/// Powers of the depth, as a scheme may have.
pub(crate) const EXPONENT: RangeInclusive<f64> = -8.0..=8.0;
/// Shares of a whole.
pub(crate) const SHARE: RangeInclusive<f64> = 0.0..=1.0;
/// Numbers that are not negative.
pub(crate) const NOT_NEGATIVE: RangeInclusive<f64> = 0.0..=f64::MAX;

/// A parser of whole numbers of a range.
pub(crate) fn whole<T: TryFrom<u64> + 'static>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse::<u64>().ok().filter(|number| range.contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            format!("expected a whole number from {} to {}", range.start(), range.end())
        })
    }
}

/// A parser of numbers of a range; infinities and what is no number are outside every one.
pub(crate) fn real(
    range: RangeInclusive<f64>,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync {
    move |text| {
        let number = text.parse::<f64>().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| match (*range.start(), *range.end()) {
            (start, f64::MAX) => format!("expected a number of at least {start}"),
            (start, end) => format!("expected a number from {start} to {end}"),
        })
    }
}

/// A parser of numbers above 0, up to the largest.
pub(crate) fn positive(most: f64) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync {
    move |text| match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= most => Ok(number),
        _ if most == f64::MAX => Err("expected a number above 0".to_owned()),
        _ => Err(format!("expected a number above 0, at most {most}")),
    }
}

/// Whether the values of an argument are numbers.
pub(crate) fn are_of(argument: &Arg) -> bool {
    let kinds = [
        TypeId::of::<u64>(),
        TypeId::of::<u32>(),
        TypeId::of::<usize>(),
        TypeId::of::<std::num::NonZeroUsize>(),
        TypeId::of::<f64>(),
    ];
    let kind = argument.get_value_parser().type_id();
    argument.get_action().takes_values() && kinds.into_iter().any(|number| kind == number)
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::are_of;
    use crate::cli::command;

    /// The flags of every verb whose values are numbers, each with its verb.
    fn numeric() -> Vec<(Command, Arg)> {
        let mut found = Vec::new();
        for verb in command().get_subcommands() {
            let flags = verb.get_arguments().filter(|argument| are_of(argument));
            found.extend(flags.map(|flag| (verb.clone(), flag.clone())));
        }
        found
    }

    /// Whether `flag` takes `value`; what else the verb lacks does not matter.
    fn takes(verb: &Command, flag: &Arg, value: &str) -> bool {
        let name = flag.get_long().expect("a long flag").to_owned();
        let typed = [verb.get_name().to_owned(), format!("--{name}"), value.to_owned()];
        // Other arguments would hide the answer: a value is looked at before what is missing.
        match verb.clone().try_get_matches_from(typed) {
            Ok(_) => true,
            Err(error) => error.kind() != clap::error::ErrorKind::ValueValidation,
        }
    }

    fn number(text: &str) -> f64 {
        text.replace('−', "-").parse().expect(text)
    }

    #[test]
    fn every_number_is_checked_to_be_in_the_range_that_its_help_says() {
        let mut checked = 0;
        let flags = numeric();
        assert!(flags.len() > 60, "{}", flags.len());
        for (verb, flag) in flags {
            let name = format!("{} --{}", verb.get_name(), flag.get_id());
            let help = flag.get_long_help().or(flag.get_help()).expect(&name).to_string();
            let Some((_, range)) = help.rsplit_once('(') else { panic!("{name}: {help}") };
            let range = range.split_once(')').expect(&name).0;
            let (inside, outside): (Vec<String>, Vec<String>) =
                if let Some(least) = range.strip_suffix(" or more") {
                    let least = number(least);
                    (vec![least.to_string(), "1e300".into()], vec![(least - 0.5).to_string()])
                } else if range == "above 0" {
                    (vec!["1e-9".into(), "1".into(), "1e300".into()], vec!["0".into()])
                } else if let Some(most) = range.strip_prefix("above 0, at most ") {
                    (vec![most.into()], vec!["0".into(), (number(most) * 1.01).to_string()])
                } else {
                    let ends = range.split_once('–').or_else(|| range.split_once(" to "));
                    let (least, most) = ends.unwrap_or_else(|| panic!("{name}: {range}"));
                    let inside = [least, most].map(|end| end.replace('−', "-"));
                    let mut outside = vec![(number(least) - 1.0).to_string()];
                    outside.push(format!("{most}1"));
                    (inside.into(), outside)
                };
            for value in inside {
                assert!(takes(&verb, &flag, &value), "{name} refuses {value}");
                checked += 1;
            }
            let never = ["-1e400", "-inf", "nan", "inf", "1e999", "x", "", "0x10"];
            for value in outside.iter().map(String::as_str).chain(never) {
                assert!(!takes(&verb, &flag, value), "{name} takes {value}");
                checked += 1;
            }
        }
        assert!(checked > 700, "{checked}");
    }
}
