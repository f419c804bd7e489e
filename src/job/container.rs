//! `container` of a task: the image that its command runs in.

use std::path::{Path, PathBuf};

use rustc_hash::FxHashSet;

use super::Job;
use super::body::ContainerTemplate;
use super::template::Element;
use crate::model::TaskId;

/// Endings of the names of image files, by which a name without a slash is a path. The first three
/// are formats that only Apptainer runs.
const ENDINGS: [&str; 6] = [".sif", ".simg", ".img", ".sqfs", ".sqsh", ".squashfs"];
const ONLY_APPTAINER: usize = 3;

/// The container of a task, with all values substituted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The absolute path of a file or directory, or a name that the runtime knows.
    pub image: String,
    /// The runtime that runs it.
    pub runtime: ContainerRuntime,
    /// Directories that the command sees, each with its place inside; the job's is the first.
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// Whether the command sees GPUs.
    pub gpu: bool,
    /// Working directory inside; `None`: the task's.
    pub workdir: Option<PathBuf>,
}

/// A program that runs images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerRuntime {
    /// The first that is installed and runs images of this kind.
    Auto,
    /// Apptainer or Singularity.
    Apptainer,
    /// Charliecloud.
    Charliecloud,
    /// Podman.
    Podman,
}

impl Job {
    /// The containers of the tasks, each image once; of a long axis those of the first values.
    pub fn containers(&self) -> Vec<Container> {
        let (mut found, mut known) = (Vec::new(), FxHashSet::default());
        for (group, body) in self.groups.iter().zip(&self.bodies) {
            let Some(template) = &body.extras.container else { continue };
            let elements = if template.image.is_same_for_all() { vec![0] } else { body.space().samples() };
            for number in elements {
                let task = self.task(TaskId(group.first.0 + number)).ok();
                let Some(container) = task.and_then(|task| task.container) else { continue };
                if known.insert((container.image.clone(), container.runtime as u8)) {
                    found.push(container);
                }
            }
        }
        found
    }
}

impl Container {
    /// The container of one element, whose job runs in `job_dir`.
    pub(super) fn of(template: &ContainerTemplate, element: Element<'_>, job_dir: &Path) -> Container {
        let ContainerTemplate { image, runtime, binds, gpu, workdir, .. } = template;
        let of_job = (job_dir.to_path_buf(), job_dir.to_path_buf());
        let filled = binds.iter().map(|(from, to)| (from.fill(element).into(), to.fill(element).into()));
        Container {
            image: absolute(image.fill(element), job_dir),
            runtime: *runtime,
            binds: std::iter::once(of_job).chain(filled).collect(),
            gpu: *gpu,
            workdir: workdir.as_ref().map(|dir| dir.fill(element).into()),
        }
    }

    /// The image as a file or directory; `None` for a name that the runtime knows.
    pub fn file(&self) -> Option<&Path> {
        is_path(&self.image).then(|| Path::new(&self.image))
    }
}

impl ContainerRuntime {
    /// True if it runs images that are written like this.
    pub fn takes(self, image: &str) -> bool {
        let is_only_for_apptainer = ENDINGS[..ONLY_APPTAINER].iter().any(|ending| image.ends_with(ending));
        match self {
            ContainerRuntime::Auto => true,
            ContainerRuntime::Apptainer => is_path(image) || image.contains("://"),
            ContainerRuntime::Charliecloud => !image.contains("://") && !is_only_for_apptainer,
            ContainerRuntime::Podman => !is_path(image) && (!image.contains("://") || image.starts_with("docker://")),
        }
    }
}

/// An image that is a path, from the directory of the job.
fn absolute(image: String, job_dir: &Path) -> String {
    if !is_path(&image) {
        return image;
    }
    // Without the `.` that tells a path from a name.
    job_dir.join(&image).components().collect::<PathBuf>().to_string_lossy().into_owned()
}

/// True if an image is written as the path of a file or directory.
pub(super) fn is_path(image: &str) -> bool {
    !image.contains("://") && (image.starts_with(['/', '.']) || ENDINGS.iter().any(|ending| image.ends_with(ending)))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::ContainerRuntime::{Apptainer, Charliecloud, Podman};
    use crate::model::TaskId;

    struct NoKernels;

    impl crate::job::KernelCheck for NoKernels {
        fn names(&self) -> Vec<&str> {
            Vec::new()
        }
        fn check(&self, _: &str, _: &toml::Table) -> Result<(), String> {
            Ok(())
        }
    }

    #[test]
    fn an_image_that_is_a_path_is_an_input_wherever_it_comes_from() {
        let inputs = |images: &str| {
            let text = format!(
                "[[task]]\nname = \"t\"\ndir = \"place\"\ncommand = \"true\"\nmatrix = {{ image = [{images}] }}\n\
                 container = {{ image = \"{{image}}\" }}\n\
                 [[task]]\nname = \"make\"\ncommand = \"true\"\noutputs = \"b.sif\"\n"
            );
            let job = crate::job::parse(&*text, "job.toml", Path::new("/work"), &NoKernels).unwrap().job;
            let of_task = |number| -> Vec<PathBuf> {
                let task = job.task(TaskId(number)).unwrap();
                task.inputs.into_iter().map(|(file, _)| file).collect()
            };
            (of_task(0), of_task(1), job.links.len())
        };
        let path = |text: &str| vec![PathBuf::from(text)];
        assert_eq!(inputs("\"./a.sif\", \"b.sif\""), (path("/work/a.sif"), path("/work/b.sif"), 1));
        assert_eq!(inputs("\"/a.sif\", \"/b.sif\""), (path("/a.sif"), path("/b.sif"), 0));
        // Of several kinds, each is told when the task starts.
        assert_eq!(inputs("\"alpine:3\", \"b.sif\""), (Vec::new(), path("/work/b.sif"), 0));
        assert_eq!(inputs("\"/a.sif\", \"b.sif\""), (path("/a.sif"), path("/work/b.sif"), 0));
    }

    #[test]
    fn the_way_an_image_is_written_says_who_runs_it() {
        let takers = |image| [Apptainer, Charliecloud, Podman].map(|runtime| runtime.takes(image));
        assert_eq!(takers("x.sif"), [true, false, false]);
        assert_eq!(takers("/images/x.sqfs"), [true, true, false]);
        assert_eq!(takers("./tree"), [true, true, false]);
        assert_eq!(takers("docker://alpine:3"), [true, false, true]);
        assert_eq!(takers("oras://host/x"), [true, false, false]);
        assert_eq!(takers("quay.io/org/x:1.2"), [false, true, true]);
    }
}
