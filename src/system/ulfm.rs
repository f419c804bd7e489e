//! Whether the ranks of an MPI world survive the loss of one of them.
//!
//! They do with ULFM (user-level failure mitigation), an extension of the MPI standard that Open
//! MPI 5 has and that `mpirun --with-ft ulfm` switches on. A program that was built with Open MPI
//! 4.1 runs with Open MPI 5 unchanged, hence its functions are looked up when the program runs.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use super::{launch, launcher};

/// The option of `mpirun` that switches it on.
pub const OPTION: &str = "--with-ft";

/// The variable that this option sets for every rank.
const SWITCH: &str = "OMPI_MCA_mpi_ft_enable";

/// What the loss of a rank means for the other ranks of its world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankLoss {
    /// They go on.
    Survived,
    /// The launcher ends them; with an option it would not.
    FatalWithoutOption,
    /// The launcher ends them.
    Fatal,
}

impl RankLoss {
    /// What it means for the world of this process, or for one that this MPI would start.
    pub fn here() -> RankLoss {
        let value = std::env::var(SWITCH).ok();
        // The variable alone does not keep a launcher from ending the others.
        let has_option = launcher::has_option(OPTION).unwrap_or_else(launch::is_of_mpirun);
        let switch = value.as_deref().filter(|_| has_option);
        RankLoss::of(functions().is_some(), launch::library().contains("Open MPI"), switch)
    }

    fn of(has_functions: bool, is_open_mpi: bool, switch: Option<&str>) -> RankLoss {
        let is_on = switch.is_some_and(|value| ["1", "t", "true", "y", "yes"].contains(&value));
        match (has_functions, is_open_mpi) {
            (true, true) if is_on => RankLoss::Survived,
            (true, true) => RankLoss::FatalWithoutOption,
            _ => RankLoss::Fatal,
        }
    }

    /// The effect of a lost rank on a run, for its user.
    pub fn text(self) -> &'static str {
        match self {
            RankLoss::Survived => "costs what it runs; the run goes on without it",
            RankLoss::FatalWithoutOption => {
                "ends the run, which --resume continues; after `mpirun --with-ft ulfm` the run goes on without it"
            }
            RankLoss::Fatal => {
                "ends the run, which --resume continues; with Open MPI 5 and `mpirun --with-ft ulfm` the run goes on \
                 without it"
            }
        }
    }
}

/// The functions that list the lost ranks of a communicator, and that acknowledge them; `None` if
/// this MPI lacks them.
pub fn functions() -> Option<[NonNull<c_void>; 2]> {
    Some([look_up(c"MPIX_Comm_get_failed")?, look_up(c"MPIX_Comm_ack_failed")?])
}

/// The address of a function of this program or of a library that it is linked to.
pub fn look_up(name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: the name ends with a zero byte, and a search among what is loaded changes nothing.
    NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_survives_only_where_mpi_can_and_was_told_to() {
        use RankLoss::{Fatal, FatalWithoutOption, Survived};
        let cases = [
            ((true, true, Some("1")), Survived),
            ((true, true, Some("true")), Survived),
            ((true, true, Some("0")), FatalWithoutOption),
            ((true, true, None), FatalWithoutOption),
            // Open MPI 4 with a variable that somebody has set, and MPICH, which needs more.
            ((false, true, Some("1")), Fatal),
            ((true, false, Some("1")), Fatal),
            ((false, false, None), Fatal),
        ];
        for ((functions, is_open_mpi, switch), expected) in cases {
            assert_eq!(RankLoss::of(functions, is_open_mpi, switch), expected, "{functions} {is_open_mpi} {switch:?}");
        }
        assert!(look_up(c"malloc").is_some() && look_up(c"phalanx_has_no_such_function").is_none());
    }
}
