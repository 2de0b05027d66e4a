//! What one branch of one layer does with the stream, as a product of independent parts.
//!
//! With x the stream, F the attention or MLP and N a norm with a gain of its own:
//!
//! ```text
//! branch = gate · N_out(F(output_scale · N_in(input_scale · x)))
//! sum    = N_join(stream_scale · x + branch)
//! x'     = sum − SiLU(a) · stopgrad(sum)
//! ```
//!
//! Each N, the gate and a are there or not. Every placement of norms that the field has proposed for
//! one stream is such a product: Pre-LN has only N_in, Post-LN only N_join, a sandwich N_in and N_out,
//! OLMo 2 only N_out, KEEL N_in and N_join.

/// A branch's norms, gate and join. See the module's formula.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Branch {
    /// The norm on what F reads; without it F reads the stream itself.
    pub input_norm: Option<InputNorm>,
    /// Whether a norm stands on F's output.
    pub output_norm: bool,
    /// What F's output is multiplied by before it is added, after its norm.
    pub gate: BranchGate,
    /// How the branch's output and the stream become the new stream.
    pub join: Join,
}

/// The norm on a branch's input, and the constants around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputNorm {
    /// Multiplies what the norm reads.
    pub input_scale: f64,
    /// Multiplies what the norm gives, after gain and bias.
    pub output_scale: f64,
}

/// What a branch's output is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BranchGate {
    /// A constant.
    Constant(f64),
    /// A learned λ.
    Learned {
        /// One number for the branch instead of one for each feature.
        scalar: bool,
        /// Its value at initialisation.
        init: f64,
    },
}

/// How stream and branch become the new stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Join {
    /// Multiplies the stream before the sum.
    pub stream_scale: f64,
    /// Whether a norm stands on the sum.
    pub norm: bool,
    /// Whether SiLU(a) of the sum is taken away without a gradient, a being learned for each layer.
    pub damped: bool,
}

impl Join {
    /// x + branch
    pub const ADD: Self = Self { stream_scale: 1.0, norm: false, damped: false };

    /// N(x + branch)
    pub const NORMED: Self = Self { norm: true, ..Self::ADD };
}

impl InputNorm {
    /// N(x)
    pub const PLAIN: Self = Self { input_scale: 1.0, output_scale: 1.0 };
}

impl Branch {
    /// x + F(N(x)): Pre-LN.
    pub const PRE: Self = Self {
        input_norm: Some(InputNorm::PLAIN),
        output_norm: false,
        gate: BranchGate::Constant(1.0),
        join: Join::ADD,
    };

    /// N(x + F(x)): Post-LN.
    pub const POST: Self = Self { input_norm: None, join: Join::NORMED, ..Self::PRE };

    /// x + N₂(F(N₁(x)))
    pub const SANDWICH: Self = Self { output_norm: true, ..Self::PRE };

    /// What the input norm multiplies its output by; 1 where there is no such norm.
    pub fn output_scale(&self) -> f64 {
        self.input_norm.map_or(1.0, |norm| norm.output_scale)
    }

    /// Whether the branch is only added to the stream, so that a layer without it is the layer with a
    /// branch of zeros.
    pub fn only_adds(&self) -> bool {
        self.join == Join::ADD
    }
}
