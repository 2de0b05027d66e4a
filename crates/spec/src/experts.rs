//! Experts in a layer's MLP: which there are, and how a router chooses among them (Shazeer et al., arXiv
//! 1701.06538; Mixtral, arXiv 2401.04088; DeepSeek-V2, arXiv 2405.04434, §2.2; DeepSeek-V3, arXiv
//! 2412.19437, §2.1.2).

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
    /// σ of each expert's score; a correction, which the load set during training, is added to choose, and
    /// has no part in the weights.
    Sigmoid,
    /// The same, divided by their sum over the chosen experts.
    SigmoidRenormalised,
}

impl Router {
    /// Whether a correction is added to the shares to choose.
    pub const fn is_corrected(self) -> bool {
        matches!(self, Self::Sigmoid | Self::SigmoidRenormalised)
    }
}

/// Experts that stand in groups, neighbours together: a token is sent to those of a few groups only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ExpertGroups {
    /// How many groups there are, all of one size.
    pub count: usize,
    /// How many of them a token's experts are of: those with the largest share, or where shares are
    /// corrected with the largest sum of two.
    pub per_token: usize,
}

/// The experts in the place of a layer's MLP: scale · Σ weight · MLP(x) over those that are chosen for x, plus
/// what an MLP beside them makes of every x.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ExpertsSpec {
    /// How many there are.
    pub count: usize,
    /// How many compute a token.
    pub per_token: usize,
    /// Features inside each.
    pub intermediate_size: usize,
    /// How their weights come about.
    pub router: Router,
    /// The groups that limit the choice.
    pub groups: Option<ExpertGroups>,
    /// Multiplies the weights.
    pub scale: f64,
    /// Features inside the MLP that computes every token beside them: the shared experts, side by side.
    pub shared_intermediate_size: Option<usize>,
}

impl ExpertsSpec {
    /// One expert, in no group, its weight as the router gives it, beside no other: what literals start from.
    pub const PLAIN: Self = Self {
        count: 1,
        per_token: 1,
        intermediate_size: 1,
        router: Router::Softmax,
        groups: None,
        scale: 1.0,
        shared_intermediate_size: None,
    };

    /// Most experts of a layer: eight times what the largest published models have.
    const MOST: usize = 1 << 12;

    /// Most experts of all layers together, so that a hostile file's inventory stays small.
    pub(crate) const MOST_OF_A_MODEL: usize = 1 << 17;

    /// Checks the numbers of layer `layer`.
    pub(crate) fn validate(&self, layer: usize) -> Result<(), SpecError> {
        let refuse = |what: String| Err(SpecError::Inconsistent { what });
        let Self { count, per_token, intermediate_size, scale, .. } = *self;
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
        if let Some(inner) = self.shared_intermediate_size.filter(|inner| *inner > 1 << 22) {
            return refuse(format!(
                "the shared experts of layer {layer} have {inner} features inside together; they can have \
                 up to {}",
                1 << 22
            ));
        }
        if !(1e-30..1e30).contains(&scale) {
            return refuse(format!(
                "the weights of the experts of layer {layer} are multiplied by {scale}; it must be a \
                 number above 0 (`routed_scaling_factor`)"
            ));
        }
        self.groups.map_or(Ok(()), |groups| self.validate_groups(groups, layer))
    }

    fn validate_groups(&self, groups: ExpertGroups, layer: usize) -> Result<(), SpecError> {
        let refuse = |what: String| Err(SpecError::Inconsistent { what });
        let ExpertGroups { count, per_token } = groups;
        if count == 0 || !self.count.is_multiple_of(count) {
            return refuse(format!(
                "the {} experts of layer {layer} cannot stand in {count} groups of one size (`n_group`)",
                self.count
            ));
        }
        if !(1..=count).contains(&per_token) {
            return refuse(format!(
                "each token of layer {layer} goes to experts of {per_token} of {count} groups; it can be 1 \
                 to {count} (`topk_group`)"
            ));
        }
        let of_one = self.count / count;
        if self.per_token > per_token * of_one {
            return refuse(format!(
                "each token of layer {layer} goes to {} experts of {per_token} groups of {of_one}, which \
                 have {} (`num_experts_per_tok`, `topk_group`)",
                self.per_token,
                per_token * of_one
            ));
        }
        if self.router.is_corrected() && of_one < 2 {
            return refuse(format!(
                "the groups of layer {layer} have one expert each; they are chosen by the sum of two \
                 (`n_group`)"
            ));
        }
        Ok(())
    }

    /// The experts of a token by its shares, and by what is added to these to choose: that of the largest
    /// share first, of equal ones the first.
    pub fn choose(&self, shares: &[f32], correction: Option<&[f32]>) -> Vec<usize> {
        let worth = |expert: usize| shares[expert] + correction.map_or(0.0, |added| added[expert]);
        let mut order: Vec<usize> = match self.groups {
            None => (0..shares.len()).collect(),
            Some(groups) => {
                let of_one = shares.len() / groups.count;
                let members = |group: usize| group * of_one..(group + 1) * of_one;
                let mut best: Vec<usize> = (0..groups.count).collect();
                let worths: Vec<f32> = best
                    .iter()
                    .map(|group| self.worth_of_group(members(*group).map(worth)))
                    .collect();
                best.sort_by(|a, b| worths[*b].total_cmp(&worths[*a]));
                best.truncate(groups.per_token);
                best.sort_unstable();
                best.into_iter().flat_map(members).collect()
            }
        };
        order.sort_by(|a, b| worth(*b).total_cmp(&worth(*a)));
        order.truncate(self.per_token);
        if correction.is_some() {
            order.sort_by(|a, b| shares[*b].total_cmp(&shares[*a]).then(a.cmp(b)));
        }
        order
    }

    /// The largest of a group's, or the sum of its two largest where shares are corrected.
    fn worth_of_group(&self, worths: impl Iterator<Item = f32>) -> f32 {
        let [mut largest, mut second] = [f32::NEG_INFINITY; 2];
        for worth in worths {
            if worth > largest {
                (largest, second) = (worth, largest);
            } else {
                second = second.max(worth);
            }
        }
        if self.router.is_corrected() { largest + second } else { largest }
    }
}
