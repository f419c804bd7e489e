//! What people and programs see of Phalanx: reports, traces and pages of runs, the command line,
//! the documents.

mod habits;
mod live;
mod mcp;
mod observe;
mod readme;
mod recommend;
#[path = "../support/mod.rs"]
mod support;
mod why;
