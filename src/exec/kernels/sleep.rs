//! `sleep { seconds }`: only takes time; stands for any task in a rehearsal of a workload.

use std::sync::Arc;

use crate::exec::args::{ArgError, Args};
use crate::exec::kernel::Prepared;

pub(super) fn prepare(args: &toml::Table) -> Result<Prepared, ArgError> {
    let time = super::seconds(&Args::new(args, &["seconds"])?, "seconds")?;
    let time = time.ok_or_else(|| super::missing("seconds", "seconds"))?;
    Ok(Arc::new(move |context| {
        // The runner reports why it ended early.
        context.sleep(time);
        Ok(())
    }))
}
