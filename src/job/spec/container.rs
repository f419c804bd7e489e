//! `container` of a task, as typed.

use crate::job::container::ContainerRuntime;
use crate::job::read::section;
use crate::job::values::{OneOf, Strings};

section! {
    /// The image that a command runs in
    ContainerTable {
        /// The image: a file or directory, relative to the directory of the job, or a name that the
        /// runtime knows, such as docker://alpine:3; may contain `{...}`
        image: String = required,
        /// The program that runs the image
        runtime: OneOf<ContainerRuntime> = "\"auto\"",
        /// Further directories that the command sees, as "DIR" or "DIR:PLACE"; may contain `{...}`
        bind: Strings,
        /// Whether the command sees GPUs
        gpu: bool = "true if the task has `gpus`",
        /// Working directory inside the container; may contain `{...}`
        workdir: String = "the task's",
    }
}
