//! Experts in a layer's MLP: which there are, and how a router chooses among them (Shazeer et al., arXiv
//! 1701.06538; Mixtral, arXiv 2401.04088).

use serde::Serialize;

use crate::SpecError;

/// How the scores that a router gives a token's experts become their weights. The experts with the largest
/// shares are chosen, the first of equal ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Router {
    /// The shares of a softmax over all experts.
    Softmax,
    /// The same, divided by their sum over the chosen experts.
    SoftmaxRenormalised,
}

/// The experts in the place of a layer's MLP: Σ weight · MLP(x) over those that are chosen for x.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ExpertsSpec {
    /// How many there are.
    pub count: usize,
    /// How many compute a token.
    pub per_token: usize,
    /// Features inside each.
    pub intermediate_size: usize,
    /// How their weights come about.
    pub router: Router,
}

impl ExpertsSpec {
    /// Most experts of a layer: eight times what the largest published models have.
    const MOST: usize = 1 << 12;

    /// Most experts of all layers together, so that a hostile file's inventory stays small.
    pub(crate) const MOST_OF_A_MODEL: usize = 1 << 17;

    /// Checks the numbers of layer `layer`.
    pub(crate) fn validate(&self, layer: usize) -> Result<(), SpecError> {
        let refuse = |what: String| Err(SpecError::Inconsistent { what });
        let Self { count, per_token, intermediate_size, .. } = *self;
        if !(1..=Self::MOST).contains(&count) {
            return refuse(format!(
                "layer {layer} has {count} experts; it can have 1 to {}",
                Self::MOST
            ));
        }
        if !(1..=count).contains(&per_token) {
            return refuse(format!(
                "each token of layer {layer} goes to {per_token} of {count} experts; it can go to 1 to \
                 {count} (`num_experts_per_tok`)"
            ));
        }
        if !(1..=1 << 22).contains(&intermediate_size) {
            return refuse(format!(
                "the experts of layer {layer} have {intermediate_size} features inside; they can have 1 \
                 to {}",
                1 << 22
            ));
        }
        Ok(())
    }
}
