//! A model without some of its layers or branches: the plan of what goes, be it named or chosen by evidence
//! (`lns_diagnose::choose`), and what is gained and lost.

mod effect;
mod plan;

pub use effect::{Effect, effect};
pub use plan::{chosen_plan, given_plan, prune, read_plan};
