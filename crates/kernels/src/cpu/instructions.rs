//! The instruction set that the loops and products here use: the widest that the machine has, or one that was
//! asked for before anything was computed.

use std::{fmt, str::FromStr, sync::OnceLock};

/// Vector instructions that the loops are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// What every processor of the target has: SSE2 on x86-64, NEON on AArch64.
    Baseline,
    /// AVX2 with FMA, 8 numbers at once.
    Avx2,
    /// AVX-512 (F, VL, DQ, BW), 16 numbers at once.
    Avx512,
}

impl InstructionSet {
    /// Every set, the widest last.
    pub const ALL: [Self; 3] = [Self::Baseline, Self::Avx2, Self::Avx512];

    /// Its name on the command line and in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// The widest that this machine has.
    pub fn widest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw");
            match (avx2, avx512) {
                (true, true) => return Self::Avx512,
                (true, false) => return Self::Avx2,
                (false, _) => {}
            }
        }
        Self::Baseline
    }

    /// The set in use.
    #[inline]
    pub fn in_use() -> Self {
        *IN_USE.get_or_init(Self::widest)
    }

    /// Uses this set from now on, in this whole process: to measure on one machine what another would do.
    /// Operations of Burn's own backend, where a model is computed by those, still choose for themselves.
    ///
    /// # Errors
    /// [`InstructionSetError`] when the machine does not have it, or something was computed with another.
    pub fn force(self) -> Result<(), InstructionSetError> {
        if self > Self::widest() {
            return Err(InstructionSetError::Missing { asked: self, widest: Self::widest() });
        }
        match *IN_USE.get_or_init(|| self) {
            found if found == self => Ok(()),
            found => Err(InstructionSetError::Late { asked: self, found }),
        }
    }
}

/// Written once: an operation is never half of one set.
static IN_USE: OnceLock<InstructionSet> = OnceLock::new();

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for InstructionSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|set| set.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            format!("expected one of {}", names.join(", "))
        })
    }
}

/// Why an instruction set is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstructionSetError {
    /// The machine does not have it.
    Missing {
        /// The one asked for.
        asked: InstructionSet,
        /// The widest there is.
        widest: InstructionSet,
    },
    /// Something was computed with another before.
    Late {
        /// The one asked for.
        asked: InstructionSet,
        /// The one in use.
        found: InstructionSet,
    },
}

impl fmt::Display for InstructionSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { asked, widest } => {
                write!(f, "this machine does not have {asked}; the widest it has is {widest}")
            }
            Self::Late { asked, found } => {
                write!(f, "{asked} comes too late: this process computes with {found}")
            }
        }
    }
}

impl std::error::Error for InstructionSetError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_the_machine_lacks_or_that_comes_too_late_is_refused() {
        let widest = InstructionSet::in_use();
        assert_eq!(widest, InstructionSet::widest());
        assert_eq!(widest.force(), Ok(()), "what is in use may be asked for");
        for asked in InstructionSet::ALL.into_iter().filter(|set| *set != widest) {
            let error = asked.force().expect_err("another is in use");
            let lacks = matches!(error, InstructionSetError::Missing { .. });
            assert_eq!(lacks, asked > widest, "{error}");
        }
        assert_eq!("avx2".parse(), Ok(InstructionSet::Avx2));
        let error = "mmx".parse::<InstructionSet>().expect_err("no such set");
        assert!(error.contains("baseline, avx2, avx512"), "{error}");
    }
}
