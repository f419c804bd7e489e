//! Resolves `container` of a task.

use super::names::{check_dir, check_path};
use super::task::TaskResolver;
use crate::job::body::{ContainerTemplate, WorkTemplate};
use crate::job::container::{ContainerRuntime, is_path};
use crate::job::diagnostic::Diagnostic;
use crate::job::read::At;
use crate::job::template::Template;
use crate::job::units::shorten;
use crate::job::values::ContainerUse;

impl TaskResolver<'_> {
    /// The container of the task; that of `[defaults]` holds for commands only.
    pub(super) fn container(
        &mut self,
        (own, default): (Option<&At<ContainerUse>>, Option<&At<ContainerUse>>),
        work: &WorkTemplate,
        has_gpus: bool,
    ) -> Option<ContainerTemplate> {
        let typed = own.or(default)?;
        let table = typed.value.0.as_ref()?;
        if matches!(work, WorkTemplate::Kernel { .. }) {
            if own.is_some() {
                self.findings.push(
                    Diagnostic::error("a container holds a command, and this task runs inside Phalanx itself")
                        .at(&typed.span)
                        .help("leave `container` out"),
                );
            }
            return None;
        }
        let image = table.image.as_ref()?;
        let runtime = table.runtime.as_ref().map_or(ContainerRuntime::Auto, |at| at.value.0);
        let binds = table.bind.iter().flat_map(|binds| &binds.value.0);
        let binds = binds.filter_map(|bind| self.bind(bind)).collect();
        if let Some(dir) = &table.workdir {
            self.check_inside("workdir", &dir.value, dir);
        }
        let (image, is_file) = self.image(image, runtime);
        Some(ContainerTemplate {
            image,
            is_file,
            runtime,
            binds,
            gpu: table.gpu.as_ref().map_or(has_gpus, |at| at.value),
            workdir: table.workdir.as_ref().map(|dir| self.own_template(dir)),
        })
    }

    /// The image, and whether it is an absolute path for every element: values may be paths, too.
    fn image(&mut self, typed: &At<String>, runtime: ContainerRuntime) -> (Template, bool) {
        let template = self.own_template(typed);
        self.check_image(typed, &template.fill(self.element(0)), runtime);
        let is_alike = template.is_same_for_all() || template.start().starts_with(['/', '.']);
        let last = if is_alike { 0 } else { u32::try_from(self.space.len() - 1).unwrap_or(u32::MAX) };
        let images = || (0..=last).map(|number| template.fill(self.element(number)));
        if images().all(|image| is_path(&image) && !image.starts_with('/')) {
            return (self.behind_job(template), true);
        }
        // Of images of several kinds each is told when its task starts.
        let is_file = images().all(|image| image.starts_with('/'));
        (template, is_file)
    }

    fn check_image(&mut self, image: &At<String>, first: &str, runtime: ContainerRuntime) {
        check_dir("image", image, self.findings);
        if !runtime.takes(first) {
            let message = format!("this runtime does not run an image like {:?}", shorten(first));
            let help = "a file or directory is for apptainer, or for charliecloud (not .sif), and begins with `/` or \
                        `.` or ends as image files do; names of registries are for podman, and for apptainer as \
                        docker://NAME";
            self.findings.push(Diagnostic::error(message).at(&image.span).help(help));
        }
    }

    /// A directory outside and its place inside.
    fn bind(&mut self, bind: &At<String>) -> Option<(Template, Template)> {
        check_dir("bind", bind, self.findings);
        let (from, to) = bind.value.split_once(':').unwrap_or((&bind.value, ""));
        if bind.value.contains(',') || to.contains(':') {
            let message = format!("{:?} is not DIR or DIR:PLACE", shorten(&bind.value));
            let help = "options such as `ro` differ between runtimes and are not passed on; names have no comma";
            self.findings.push(Diagnostic::error(message).at(&bind.span).help(help));
            return None;
        }
        let from = self.below_job(from, bind);
        if to.is_empty() {
            return Some((from.clone(), from));
        }
        self.check_inside("bind", to, bind);
        Some((from, self.template(to, &bind.span)))
    }

    /// A place inside a container has its whole path.
    fn check_inside(&mut self, key: &str, place: &str, typed: &At<String>) {
        check_path(key, typed, self.findings);
        if !place.starts_with(['/', '{']) {
            let message =
                format!("`{key}`: {:?} is a place inside the container and needs its whole path", shorten(place));
            self.findings.push(Diagnostic::error(message).at(&typed.span).help("begin it with `/`"));
        }
    }

    fn own_template(&mut self, typed: &At<String>) -> Template {
        self.template(&typed.value, &typed.span)
    }

    /// A path outside, relative to the directory of the job.
    fn below_job(&mut self, path: &str, typed: &At<String>) -> Template {
        let template = self.template(path, &typed.span);
        if template.fill(self.element(0)).starts_with('/') {
            return template;
        }
        self.behind_job(template)
    }

    fn behind_job(&mut self, template: Template) -> Template {
        let dir = self.job.dir.join("");
        self.shared.template(template.behind(&dir.to_string_lossy()))
    }
}
