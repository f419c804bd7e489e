//! Variables of MPI implementations that the user set, told apart from those of the launcher that
//! started this process.
//!
//! A launcher describes the place of a process in its world in variables of the same families in
//! which a user tunes programs (`OMPI_MCA_...`). Rank 0 finds those of the user and sends them to
//! all ranks, whose own launchers may have started them without.
//!
//! A variable that describes a place is never the user's. Any other that a launcher may set is the
//! user's if the launcher had it when it was started itself, which Linux tells of a parent. All
//! others are the user's.

use std::collections::BTreeMap;

use crate::system::launcher;

/// Prefixes of the variables of MPI implementations and their launchers.
const FAMILIES: [&str; 16] = [
    "OMPI_",
    "PMIX_",
    "PMI_",
    "PMI2_",
    "PRTE_",
    "PRRTE_",
    "HYDRA_",
    "HYDI_",
    "I_MPI_HYDRA_",
    "MPI_LOCAL",
    "MPIR_",
    "MPISPAWN_",
    "MV2_COMM_",
    "PALS_",
    "HFI_NO_BACKTRACE",
    "IPATH_NO_BACKTRACE",
];

/// Prefixes of variables that describe a place in a world, or that the `mpirun` of Open MPI 5
/// leaves to the launcher that it becomes.
const PLACE: [&str; 43] = [
    "OMPI_LIBDIR_LOC",
    "OMPI_TOOL_NAME",
    "OMPI_VERSION",
    "OMPI_MCA_PREFIXES",
    "PRTE_MCA_schizo_proxy",
    "OMPI_COMM_WORLD_",
    "OMPI_WORLD_",
    "OMPI_MCA_num_procs",
    "OMPI_APP_CTX_",
    "OMPI_UNIVERSE_SIZE",
    "OMPI_FILE_LOCATION",
    "OMPI_FIRST_RANKS",
    "OMPI_NUM_APP_CTX",
    "OMPI_COMMAND",
    "OMPI_ARGV",
    "OMPI_MCA_ess",
    "OMPI_MCA_initial_wdir",
    "OMPI_MCA_orte_app_num",
    "OMPI_MCA_orte_bound_at_launch",
    "OMPI_MCA_orte_ess_",
    "OMPI_MCA_orte_hnp_uri",
    "OMPI_MCA_orte_jobfam_",
    "OMPI_MCA_orte_launch",
    "OMPI_MCA_orte_local_daemon_uri",
    "OMPI_MCA_orte_num_nodes",
    "OMPI_MCA_orte_parent_uri",
    "OMPI_MCA_orte_precondition_",
    "OMPI_MCA_orte_top_session_",
    "OMPI_MCA_shmem_RUNTIME_",
    "PMIX_RANK",
    "PMIX_NAMESPACE",
    "PMIX_ID",
    "PMIX_SERVER_",
    "PMIX_DSTORE_",
    "PRTE_LAUNCHED",
    "PMI_",
    "PMI2_",
    "HYDI_",
    "MPI_LOCAL",
    "MPIR_PROCDESC",
    "MPISPAWN_",
    "MV2_COMM_",
    "PALS_",
];

/// Prefixes of other variables that a launcher may set, or make of its own options (`mpirun --mca
/// rmaps_...`, `--oversubscribe`). Parameters of transports (`--mca btl ...`) are not among them:
/// they are meant for the programs.
const MAYBE_LAUNCHER: [&str; 27] = [
    "OMPI_MCA_cpu_type",
    "OMPI_MCA_mpi_ft_enable",
    "OMPI_MCA_orte_",
    "OMPI_MCA_pmix",
    "OMPI_MCA_plm",
    "OMPI_MCA_ras",
    "OMPI_MCA_rmaps",
    "OMPI_MCA_rml",
    "OMPI_MCA_odls",
    "OMPI_MCA_hwloc",
    "OMPI_MCA_shmem",
    "OMPI_MCA_grpcomm",
    "OMPI_MCA_routed",
    "OMPI_MCA_state",
    "OMPI_MCA_iof",
    "OMPI_MCA_schizo",
    "OMPI_MCA_errmgr",
    "OMPI_MCA_regx",
    "OMPI_MCA_rtc",
    "OMPI_MCA_mpi_oversubscribe",
    "OMPI_MCA_mpi_yield_when_idle",
    "PMIX_MCA_mca_base_component_show_load_errors",
    "PRTE_MCA_",
    "HYDRA_",
    "I_MPI_HYDRA_",
    "HFI_NO_BACKTRACE",
    "IPATH_NO_BACKTRACE",
];

/// Variables by which a process finds that a launcher has started it.
const MARKS: [&str; 4] = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MPI_LOCALRANKID"];

type Variables = BTreeMap<String, String>;

fn has_prefix(name: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// True for a variable of a family in which launchers describe a place.
pub(super) fn is_of_a_family(name: &str) -> bool {
    has_prefix(name, &FAMILIES)
}

/// The variables of these families that the user set for their programs.
pub fn user_variables() -> Vec<(String, String)> {
    // As this process was started: MPI itself sets more of them while it starts.
    let own = launcher::own_environment()
        .map_or_else(|| std::env::vars_os().filter_map(text).collect(), Variables::from_iter);
    let is_launched = MARKS.iter().any(|mark| own.contains_key(*mark));
    let launcher = match is_launched {
        true => launcher::environment().map(Variables::from_iter),
        false => Some(own.clone()),
    };
    users(&own, launcher.as_ref()).into_iter().collect()
}

fn text((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    name.into_string().ok().zip(value.into_string().ok())
}

/// What the user set, by the variables of this process and those that its launcher was started
/// with, if known.
fn users(own: &Variables, launcher: Option<&Variables>) -> Variables {
    let is_theirs = |name: &str| is_of_a_family(name) && !has_prefix(name, &PLACE);
    let given = launcher.into_iter().flatten().filter(|(name, _)| is_theirs(name));
    let is_server = |name: &str| has_prefix(name, &["PMIX_", "PRTE_", "PRRTE_"]) && !name.contains("_MCA_");
    let may_be_launchers = |name: &str| has_prefix(name, &MAYBE_LAUNCHER) || is_server(name);
    // What `mpirun` was told for the programs (`-x`, `--mca btl`) takes precedence.
    let told = own.iter().filter(|(name, _)| is_theirs(name) && !may_be_launchers(name));
    given.chain(told).map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(text: &str) -> Variables {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        text.split_whitespace().filter_map(|entry| entry.split_once('=')).map(owned).collect()
    }

    /// What Open MPI 4.1 and 5 set for a rank.
    const LAUNCHED: &str = "OMPI_APP_CTX_NUM_PROCS=3 OMPI_ARGV=x OMPI_COMMAND=bash OMPI_COMM_WORLD_RANK=0 \
        OMPI_FILE_LOCATION=/tmp OMPI_FIRST_RANKS=0 OMPI_MCA_ess=^singleton OMPI_MCA_ess_base_jobid=8 \
        OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_initial_wdir=/tmp OMPI_MCA_mpi_oversubscribe=1 \
        OMPI_MCA_orte_hnp_uri=8 OMPI_MCA_orte_tmpdir_base=/tmp OMPI_MCA_pmix=^s1 OMPI_MCA_rmaps_base_oversubscribe=1 \
        OMPI_MCA_shmem_RUNTIME_QUERY_hint=mmap OMPI_NUM_APP_CTX=1 OMPI_UNIVERSE_SIZE=2 HFI_NO_BACKTRACE=1 \
        IPATH_NO_BACKTRACE=1 PMIX_BFROP_BUFFER_TYPE=x PMIX_DSTORE_21_BASE_PATH=x PMIX_GDS_MODULE=hash PMIX_HOSTNAME=vm \
        PMIX_ID=8.0 PMIX_MCA_mca_base_component_show_load_errors=1 PMIX_NAMESPACE=8 PMIX_RANK=0 \
        PMIX_SECURITY_MODE=native PMIX_SERVER_URI2=8 PMIX_SYSTEM_TMPDIR=/tmp PMIX_VERSION=4 PMI_RANK=0 PMI_FD=3 \
        OMPI_LIBDIR_LOC=/lib OMPI_TOOL_NAME=mpirun OMPI_VERSION=5.0.11 OMPI_WORLD_SIZE=3 OMPI_WORLD_LOCAL_SIZE=3 \
        OMPI_MCA_PREFIXES=mca,opal OMPI_MCA_cpu_type=x86_64 OMPI_MCA_mpi_ft_enable=1 OMPI_MCA_num_procs=3 \
        PRTE_SHARED_FS=FALSE PRTE_MCA_schizo_proxy=ompi PRTE_LAUNCHED=1 HYDI_CONTROL_FD=1 MPI_LOCALRANKID=0 PALS_RANKID=0";

    const USERS: &str = "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_CC=gcc OMPI_UNKNOWN=1 \
        OMPI_MCA_btl=tcp,self OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_unknown_x=1 PMIX_MCA_gds=hash \
        MPIR_CVAR_CH4_NETMOD=ofi";

    /// These a launcher may make of its own options.
    const EITHER: &str = "OMPI_MCA_rmaps_base_mapping_policy=core OMPI_MCA_plm_rsh_agent=rsh PRTE_MCA_rmaps_x=1 \
        HYDRA_BOOTSTRAP=ssh PMIX_PREFIX=/opt";

    #[test]
    fn what_a_launcher_set_is_never_the_users() {
        let own = variables(&format!("{LAUNCHED} {USERS} {EITHER} PATH=/bin"));
        assert_eq!(users(&own, None), variables(USERS), "the launcher cannot be asked");
        assert_eq!(users(&own, Some(&variables("PATH=/bin"))), variables(USERS), "options of mpirun");
    }

    #[test]
    fn what_the_launcher_was_started_with_is_the_users() {
        let own = variables(&format!("{LAUNCHED} {USERS} {EITHER}"));
        let before = variables(&format!("{USERS} {EITHER} OMPI_MCA_mpi_oversubscribe=0 PATH=/bin"));
        let all = variables(&format!("{USERS} {EITHER} OMPI_MCA_mpi_oversubscribe=0"));
        assert_eq!(users(&own, Some(&before)), all);
        // A launcher that was itself started in a world.
        let nested = variables(&format!("{LAUNCHED} {USERS}"));
        let found = users(&own, Some(&nested));
        assert!(!found.contains_key("PMIX_RANK") && !found.contains_key("OMPI_MCA_orte_hnp_uri"), "{found:?}");
        assert!(found.contains_key("OMPI_UNKNOWN"));
    }

    #[test]
    fn what_mpirun_was_told_for_the_programs_takes_precedence() {
        let found = users(&variables("OMPI_MCA_btl=self PMIX_RANK=0"), Some(&variables("OMPI_MCA_btl=tcp")));
        assert_eq!(found, variables("OMPI_MCA_btl=self"));
    }
}
