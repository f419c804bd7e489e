//! Builds the command that runs a task's words in a container.
//!
//! A container changes which files a command sees, and nothing else: its processes are children of
//! the task as without one, so limits, stops and captured output are the same. The prologue and the
//! launcher of an MPI task run outside, the shell of a line and each MPI rank inside.
//!
//! Each runtime is a row of [`RUNTIMES`]. All get the directories of the job and the task at their
//! own places, the place for what the task measures, and the environment of the task: what the job
//! or the task declares wins over the image, what the image sets wins over the rest.

use std::path::{Path, PathBuf};

use super::Fault;
use super::env::TaskEnv;
use crate::job::{Container, ContainerRuntime};

/// Temporary files, which runtimes bind by default or are told to.
const TMP: &str = "/tmp";

/// A runtime.
struct Runtime {
    kind: ContainerRuntime,
    /// Its programs, the best first.
    programs: &'static [&'static str],
    arguments: fn(&Launch<'_>) -> Vec<String>,
}

/// The runtimes in the order in which `auto` tries them.
const RUNTIMES: [Runtime; 3] = [
    Runtime { kind: ContainerRuntime::Apptainer, programs: &["apptainer", "singularity"], arguments: apptainer },
    Runtime { kind: ContainerRuntime::Podman, programs: &["podman"], arguments: podman },
    Runtime { kind: ContainerRuntime::Charliecloud, programs: &["ch-run"], arguments: charliecloud },
];

/// Lists the programs that are there, and `overlay` for a `ch-run` that makes mount points.
const PROBE: &str = "echo\necho phalanx-offer-begins\n\
                     for p in apptainer singularity podman ch-run; do command -v $p >/dev/null && echo $p; done\n\
                     USER=${USER:-nobody} ch-run --help 2>&1 | grep -q write-fake && echo overlay\n\
                     echo phalanx-offer-ends";

/// What stands before and after that list, which the output of a prologue precedes.
const OFFER_MARKS: [&str; 2] = ["phalanx-offer-begins", "phalanx-offer-ends"];

/// What a node offers for containers.
#[derive(Debug, Default)]
pub(super) struct Offer {
    words: Vec<String>,
}

/// What a runtime's arguments follow from.
struct Launch<'a> {
    image: &'a str,
    /// Working directory inside.
    dir: &'a Path,
    binds: Vec<(PathBuf, PathBuf)>,
    /// Variables that win over those of the image.
    variables: Vec<String>,
    /// The variable that shows the task its GPUs, if the container shows GPUs.
    gpus: Option<&'a str>,
    is_root: bool,
    /// The runtime makes mount points that an image lacks.
    has_overlay: bool,
}

/// What a task brings along besides its container.
pub(super) struct ContainerScene<'a> {
    /// Working directory of the task.
    pub(super) dir: &'a Path,
    /// The directory of its files for measures, if there is one.
    pub(super) measures: Option<&'a Path>,
    /// The directory of its long command, if it is written as a script.
    pub(super) scripts: Option<&'a Path>,
    /// The variable that shows commands their GPUs.
    pub(super) gpu_variable: &'a str,
}

impl Offer {
    /// The words of a command whose output says what a node offers.
    pub(super) fn probe() -> Vec<String> {
        ["sh", "-c", PROBE].map(str::to_owned).to_vec()
    }

    /// Reads that output; `None` if the command did not come to its end.
    pub(super) fn read(output: &str) -> Option<Offer> {
        let [begin, end] = OFFER_MARKS;
        let (list, _) = output.split_once(begin)?.1.split_once(end)?;
        Some(Offer { words: list.split_ascii_whitespace().map(str::to_owned).collect() })
    }

    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|found| found == word)
    }
}

/// The programs that can run the image, the best first.
fn programs_for(container: &Container) -> impl Iterator<Item = &'static str> {
    runtimes_for(container).flat_map(|runtime| runtime.programs).copied()
}

fn runtimes_for(container: &Container) -> impl Iterator<Item = &'static Runtime> {
    let is_asked = |kind| container.runtime == ContainerRuntime::Auto || container.runtime == kind;
    RUNTIMES.iter().filter(move |runtime| is_asked(runtime.kind) && runtime.kind.takes(&container.image))
}

/// The program in the `PATH` of this process that runs the image.
pub(crate) fn program_here(container: &Container) -> Option<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_here = |program: &&str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    programs_for(container).find(is_here)
}

/// Says which programs are missing for an image.
pub(crate) fn missing_programs(container: &Container) -> String {
    let programs: Vec<&str> = programs_for(container).collect();
    format!("no program in PATH runs the image {}: it needs {}", container.image, programs.join(" or "))
}

/// The words that run `words` in a container, and adds to `env` what the runtime needs.
pub(super) fn words(
    container: &Container,
    scene: &ContainerScene<'_>,
    offer: &Offer,
    env: &mut TaskEnv<'_>,
    words: Vec<String>,
) -> Result<Vec<String>, Fault> {
    let offered = runtimes_for(container).find_map(|runtime| {
        runtime.programs.iter().find(|program| offer.has(program)).map(|program| (runtime, *program))
    });
    let (runtime, program) = offered.ok_or_else(|| Fault::with_exit(127, missing_programs(container)))?;
    let launch = Launch {
        image: &container.image,
        dir: container.workdir.as_deref().unwrap_or(scene.dir),
        binds: binds(container, scene, runtime.kind, offer.has("overlay"))?,
        variables: env.names().collect(),
        gpus: container.gpu.then_some(scene.gpu_variable),
        is_root: rustix::process::geteuid().is_root(),
        has_overlay: offer.has("overlay"),
    };
    let prefix = match program {
        "apptainer" => Some("APPTAINERENV_"),
        "singularity" => Some("SINGULARITYENV_"),
        _ => None,
    };
    if let Some(prefix) = prefix {
        for name in &launch.variables {
            let value = env.get(name).map(|value| String::from_utf8_lossy(value).into_owned());
            env.set(&format!("{prefix}{name}"), &value.unwrap_or_default())?;
        }
    }
    if runtime.kind == ContainerRuntime::Charliecloud {
        // `ch-run` binds what `TMPDIR` names at `/tmp`, which would hide a job below `/tmp`.
        env.set("TMPDIR", TMP)?;
        if env.get("USER").is_none() {
            env.set("USER", &format!("u{}", rustix::process::getuid().as_raw()))?;
        }
    }
    let first = std::iter::once(program.to_owned());
    Ok(first.chain((runtime.arguments)(&launch)).chain(words).collect())
}

/// The directories that are bound, without those that another one holds at the same place.
fn binds(
    container: &Container,
    scene: &ContainerScene<'_>,
    kind: ContainerRuntime,
    has_overlay: bool,
) -> Result<Vec<(PathBuf, PathBuf)>, Fault> {
    let same = |dir: &Path| (plain(dir), plain(dir));
    // Without an overlay a missing mount point would end the task for values that it may not write.
    let measures = scene.measures.filter(|_| kind != ContainerRuntime::Charliecloud || has_overlay);
    let further = [Some(scene.dir), measures, scene.scripts].into_iter().flatten();
    let all = container.binds.iter().cloned().chain(further.map(same));
    let mut kept: Vec<(PathBuf, PathBuf)> = match kind {
        ContainerRuntime::Podman => vec![same(Path::new(TMP))],
        _ => Vec::new(),
    };
    for (from, to) in all.map(|(from, to)| (plain(&from), plain(&to))) {
        let is_default = kind == ContainerRuntime::Charliecloud && from == to && from.starts_with(TMP);
        let is_held = kept.iter().any(|(other, place)| {
            from.strip_prefix(other).is_ok_and(|rest| to.strip_prefix(place).is_ok_and(|inside| inside == rest))
        });
        // The root of the host would hide the image.
        if is_default || is_held || to == Path::new("/") {
            continue;
        }
        if let Some(path) = [&from, &to].into_iter().find(|path| path.to_string_lossy().contains([':', ','])) {
            let text = format!("{} cannot be seen in a container: its name has a `:` or a `,`", path.display());
            return Err(Fault::new(text));
        }
        kept.push((from, to));
    }
    Ok(kept)
}

/// A path without `.` and a slash at its end.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

impl Launch<'_> {
    /// An option and a value for each bound directory.
    fn each_bind(&self, option: &str) -> impl Iterator<Item = String> {
        let bind = |(from, to): &(PathBuf, PathBuf)| format!("{}:{}", from.display(), to.display());
        self.binds.iter().map(bind).flat_map(move |bind| [option.to_owned(), bind])
    }

    fn dir(&self) -> String {
        plain(self.dir).display().to_string()
    }

    fn is_amd(&self) -> bool {
        self.gpus.is_some_and(|variable| ["ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"].contains(&variable))
    }
}

fn apptainer(launch: &Launch<'_>) -> Vec<String> {
    let gpus = launch.gpus.map(|_| if launch.is_amd() { "--rocm" } else { "--nv" });
    let options = std::iter::once("exec").chain(gpus).map(str::to_owned);
    let place = ["--pwd".to_owned(), launch.dir(), launch.image.to_owned()];
    options.chain(launch.each_bind("--bind")).chain(place).collect()
}

/// GPUs need no option: their devices are there, and `ch-fromhost` has put the libraries into the
/// image.
fn charliecloud(launch: &Launch<'_>) -> Vec<String> {
    let overlay = launch.has_overlay.then(|| "--write-fake".to_owned());
    let place = ["-c".to_owned(), launch.dir(), launch.image.to_owned(), "--".to_owned()];
    overlay.into_iter().chain(launch.each_bind("-b")).chain(place).collect()
}

/// The container shares all but the files with the task. Without the image's own entry point a
/// command runs as in the other runtimes.
fn podman(launch: &Launch<'_>) -> Vec<String> {
    let fixed = ["run", "--rm", "--interactive", "--network=host", "--ipc=host", "--pid=host", "--env-host"];
    let user = (!launch.is_root).then_some("--userns=keep-id");
    let gpus: &[&str] = match launch.gpus {
        None => &[],
        Some(_) if launch.is_amd() => &["--device=/dev/kfd", "--device=/dev/dri"],
        Some(_) => &["--device=nvidia.com/gpu=all"],
    };
    let options = fixed.into_iter().chain(["--security-opt=label=disable"]).chain(user).chain(gpus.iter().copied());
    let variables = launch.variables.iter().flat_map(|name| ["--env".to_owned(), name.clone()]);
    let place = ["--workdir".to_owned(), launch.dir(), "--entrypoint=".to_owned(), launch.image.to_owned()];
    options.map(str::to_owned).chain(variables).chain(launch.each_bind("--volume")).chain(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(image: &str) -> Container {
        let job = || PathBuf::from("/work/job");
        Container {
            image: image.to_owned(),
            runtime: ContainerRuntime::Auto,
            binds: vec![(job(), job()), ("/data".into(), "/in".into())],
            gpu: false,
            workdir: None,
        }
    }

    fn scene(dir: &str) -> ContainerScene<'_> {
        ContainerScene {
            dir: Path::new(dir),
            measures: Some(Path::new("/local/m")),
            scripts: None,
            gpu_variable: "CUDA_VISIBLE_DEVICES",
        }
    }

    fn line(image: &str, kind: ContainerRuntime, gpus: Option<&str>, has_overlay: bool) -> String {
        let (container, scene) = (container(image), scene("/work/job/sub"));
        let launch = Launch {
            image,
            dir: scene.dir,
            binds: binds(&container, &scene, kind, has_overlay).unwrap(),
            variables: vec!["A".into(), "PHALANX_CPUS".into()],
            gpus,
            is_root: false,
            has_overlay,
        };
        let runtime = RUNTIMES.iter().find(|runtime| runtime.kind == kind).unwrap();
        (runtime.arguments)(&launch).join(" ")
    }

    #[test]
    fn each_runtime_gets_its_arguments() {
        assert_eq!(
            line("/x.sif", ContainerRuntime::Apptainer, None, false),
            "exec --bind /work/job:/work/job --bind /data:/in --bind /local/m:/local/m --pwd /work/job/sub /x.sif"
        );
        let gpus = |variable| line("/x.sif", ContainerRuntime::Apptainer, Some(variable), false);
        assert!(gpus("CUDA_VISIBLE_DEVICES").starts_with("exec --nv --bind"));
        assert!(gpus("ROCR_VISIBLE_DEVICES").starts_with("exec --rocm --bind"));
        assert_eq!(
            line("/tree", ContainerRuntime::Charliecloud, Some("CUDA_VISIBLE_DEVICES"), false),
            "-b /work/job:/work/job -b /data:/in -c /work/job/sub /tree --"
        );
        assert_eq!(
            line("/tree", ContainerRuntime::Charliecloud, None, true),
            "--write-fake -b /work/job:/work/job -b /data:/in -b /local/m:/local/m -c /work/job/sub /tree --"
        );
        assert_eq!(
            line("alpine:3", ContainerRuntime::Podman, None, false),
            "run --rm --interactive --network=host --ipc=host --pid=host --env-host --security-opt=label=disable \
             --userns=keep-id --env A --env PHALANX_CPUS --volume /tmp:/tmp --volume /work/job:/work/job --volume \
             /data:/in --volume /local/m:/local/m --workdir /work/job/sub --entrypoint= alpine:3"
        );
        let gpus = |variable| line("alpine:3", ContainerRuntime::Podman, Some(variable), false);
        assert!(gpus("CUDA_VISIBLE_DEVICES").contains("--device=nvidia.com/gpu=all"));
        assert!(gpus("HIP_VISIBLE_DEVICES").contains("--device=/dev/kfd --device=/dev/dri"));
    }

    #[test]
    fn an_offer_is_what_stands_between_the_marks() {
        let all = |text: &str| Offer::read(text).map(|offer| offer.words.join(" "));
        let list = "loading podman overlay\nphalanx-offer-begins\nch-run\n";
        assert_eq!(all(&format!("{list}phalanx-offer-ends\n")).as_deref(), Some("ch-run"));
        assert_eq!((all(list), all("loading podman overlay\n"), all("")), (None, None, None));
        assert!(OFFER_MARKS.iter().all(|mark| PROBE.contains(mark)));
    }

    #[test]
    fn a_runtime_is_chosen_by_image_and_by_what_is_there() {
        let programs = |container: &Container| programs_for(container).collect::<Vec<_>>();
        assert_eq!(programs(&container("/x.sif")), ["apptainer", "singularity"]);
        assert_eq!(programs(&container("/tree")), ["apptainer", "singularity", "ch-run"]);
        assert_eq!(programs(&container("alpine:3")), ["podman", "ch-run"]);
        let asked = Container { runtime: ContainerRuntime::Charliecloud, ..container("/tree") };
        assert_eq!(programs(&asked), ["ch-run"]);
        assert_eq!(
            missing_programs(&container("/x.sif")),
            "no program in PATH runs the image /x.sif: it needs apptainer or singularity"
        );
    }

    #[test]
    fn what_cannot_be_bound_is_refused_and_what_is_bound_already_is_left_out() {
        let mut odd = container("/tree");
        odd.binds[0] = ("/work/a:b".into(), "/work/a:b".into());
        let refused = binds(&odd, &scene("/work"), ContainerRuntime::Apptainer, false).unwrap_err();
        assert!(refused.text.contains("/work/a:b"), "{}", refused.text);
        let mut under_tmp = container("/tree");
        under_tmp.binds[0] = ("/tmp/job".into(), "/tmp/job".into());
        let bound = |kind| binds(&under_tmp, &scene("/tmp/job"), kind, false).unwrap();
        assert_eq!(bound(ContainerRuntime::Charliecloud), [("/data".into(), "/in".into())]);
        let podman = bound(ContainerRuntime::Podman);
        assert_eq!((podman.len(), &*podman[0].0), (3, Path::new("/tmp")));
    }
}
